package wrapper

import "sync"

// Server has a client for each connection that it was given. Its handlers serve every client that has none of its own.
type Server struct {
	ServerChannel
	handlers *handlers
	mutex    sync.Mutex
	clients  map[*Client]struct{}
}

// ServerChannel is the main channel of all clients, or a named one.
type ServerChannel struct {
	name   string
	server *Server
}

// NewServer makes a server without clients.
func NewServer() *Server {
	s := &Server{handlers: newHandlers(), clients: map[*Client]struct{}{}}
	s.server = s
	return s
}

// Of is a named channel.
func (s *Server) Of(name string) ServerChannel {
	return ServerChannel{name: name, server: s}
}

// Accept gives the server a connection, which has been upgraded already.
func (s *Server) Accept(conn Conn) error {
	client := NewClient(nil)
	client.server = s
	s.mutex.Lock()
	s.clients[client] = struct{}{}
	s.mutex.Unlock()
	client.Bind(conn)
	return nil
}

func (s *Server) forget(client *Client) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	delete(s.clients, client)
}

// On registers the function for an event of any client.
func (c ServerChannel) On(event string, function any) ServerChannel {
	c.server.handlers.put(address{channel: c.name, event: event}, function, false)
	return c
}
