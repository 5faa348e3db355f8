package wrapper

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
)

// Client is one end of a connection, whichever side dialed. Its handlers outlive the connection, and so does the count
// of its requests.
type Client struct {
	ClientChannel
	server   *Server
	handlers *handlers
	mutex    sync.Mutex // guards all that follows
	conn     Conn
	ctx      context.Context
	cancel   context.CancelCauseFunc
	last     int                       // id of the last request
	pending  map[int]*request          // what was asked here
	running  map[int]*call             // what was asked by the other side
	channels map[int]*AnonymousChannel // of both sides: ids that meet would be confused
	data     map[string]any
}

// NewClient makes a client; nil lets it wait for Bind.
func NewClient(conn Conn) *Client {
	c := &Client{
		handlers: newHandlers(),
		pending:  map[int]*request{},
		running:  map[int]*call{},
		channels: map[int]*AnonymousChannel{},
		data:     map[string]any{},
	}
	c.client = c
	if conn != nil {
		c.Bind(conn)
	}
	return c
}

// Of is a named channel.
func (c *Client) Of(name string) ClientChannel {
	return ClientChannel{name: name, client: c}
}

// Get reads what Set has kept for this client.
func (c *Client) Get(key string) any {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	return c.data[key]
}

// Set keeps a value with this client.
func (c *Client) Set(key string, value any) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	c.data[key] = value
}

// Bind takes a connection, in place of the one that may be there. The "open" handlers have run when it returns, and
// nothing is read before.
func (c *Client) Bind(conn Conn) {
	old := c.leave(errRebound, errRebound)
	if old != nil {
		_ = old.Close(StatusGoingAway, errRebound.Error())
	}
	c.mutex.Lock()
	c.conn = conn
	ctx := context.WithValue(context.Background(), clientKey, c)
	c.ctx, c.cancel = context.WithCancelCause(ctx)
	ctx = c.ctx
	c.mutex.Unlock()
	open := func(function any) {
		if f, ok := function.(func(*Client)); ok {
			f(c)
		}
	}
	c.tell(open, "open", "connect")
	go c.read(ctx, conn)
}

// Close ends the connection. What waits for an answer fails, and the "close" handlers have run when it returns.
func (c *Client) Close(status StatusCode, reason string) error {
	return c.close(status, reason, true)
}

func (c *Client) close(status StatusCode, reason string, byUser bool) error {
	conn := c.leave(errClosed, fmt.Errorf("client closed (status: %d)", status))
	if conn == nil {
		return nil
	}
	if c.server != nil {
		c.server.forget(c)
	}
	c.tell(func(function any) {
		if f, ok := function.(func(*Client, StatusCode, string, bool)); ok {
			f(c, status, reason, byUser)
		}
	}, "close", "disconnect")
	return conn.Close(status, reason)
}

// leave ends everything that belongs to the connection, and returns it. Its context is the first to end, which also
// ends the reading: coder/websocket then drops the connection, often before a Close frame is written. A request may
// hear of either first: of its own end, or of the context's.
func (c *Client) leave(why, cause error) Conn {
	c.mutex.Lock()
	conn, pending, channels := c.conn, c.pending, c.channels
	c.conn = nil
	c.pending = map[int]*request{}
	c.channels = map[int]*AnonymousChannel{}
	if conn != nil {
		c.cancel(cause)
	}
	c.mutex.Unlock()
	for _, request := range pending {
		request.answer <- answer{err: why}
	}
	for _, channel := range channels {
		channel.end(cause)
	}
	return conn
}

// tell runs the client's handlers of an event of the library, then the server's.
func (c *Client) tell(run func(function any), events ...string) {
	c.handlers.tell(run, events...)
	if c.server != nil {
		c.server.handlers.tell(run, events...)
	}
}

// fail closes because of what went wrong, always with the same code.
func (c *Client) fail(err error) {
	c.tell(func(function any) {
		if f, ok := function.(func(*Client, error)); ok {
			f(c, err)
		}
	}, "error")
	_ = c.close(StatusInternalError, err.Error(), false)
}

func (c *Client) read(ctx context.Context, conn Conn) {
	for {
		var msg Message
		err := conn.ReadMessage(ctx, &msg)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			// The other side's closing is an error like any other; its code is only in the text.
			c.fail(fmt.Errorf("read message: %w", err))
			return
		}
		c.handlers.tell(func(function any) {
			if f, ok := function.(func(*Client, Message)); ok {
				f(c, msg)
			}
		}, "message")
		if msg.IgnoreIfFalse != nil && !*msg.IgnoreIfFalse {
			continue
		}
		if err := c.receive(ctx, msg); err != nil && ctx.Err() == nil {
			c.fail(fmt.Errorf("handle message: %w", err))
			return
		}
	}
}

// connection is the present one and its context.
func (c *Client) connection() (Conn, context.Context) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	return c.conn, c.ctx
}

func (c *Client) write(ctx context.Context, msg Message) error {
	conn, _ := c.connection()
	if conn == nil {
		return errClosed
	}
	return conn.WriteMessage(ctx, &msg)
}

// reply writes what nobody waits for, if there is still a connection.
func (c *Client) reply(ctx context.Context, msg Message) error {
	if conn, _ := c.connection(); conn == nil {
		return nil
	}
	return c.write(ctx, msg)
}

func (c *Client) emit(ctx context.Context, msg Message, arguments []any) error {
	var err error
	if msg.Arguments, err = encoded(arguments); err != nil {
		return err
	}
	return c.write(ctx, msg)
}

func encoded(arguments []any) ([]json.RawMessage, error) {
	raw := make([]json.RawMessage, len(arguments))
	for k, argument := range arguments {
		data, err := json.Marshal(argument)
		if err != nil {
			return nil, err
		}
		raw[k] = data
	}
	return raw, nil
}
