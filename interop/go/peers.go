package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"

	wrapper "github.com/bminer/ws-server-wrapper-go"
)

// peers are the connections of the agent, whichever side opened them.
type peers struct {
	kind     socketKind
	journal  *journal
	mutex    sync.Mutex
	all      []*peer
	messages bool
	channelTable
}

// peer is one client of the library, over all its connections.
type peer struct {
	client  *wrapper.Client
	index   int
	mutex   sync.Mutex
	present *line
	open    bool
}

func newPeers(kind socketKind, journal *journal) *peers {
	return &peers{kind: kind, journal: journal}
}

func (p *peers) count() int {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	return len(p.all)
}

// get finds the peer with that index, or the newest.
func (p *peers) get(index *int) (*peer, error) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	k := len(p.all) - 1
	if index != nil {
		k = *index
	}
	if k < 0 || k >= len(p.all) {
		return nil, errors.New("no such peer")
	}
	return p.all[k], nil
}

// listen serves the connections with handlers of one Server.
func (p *peers) listen(port int, path string, limit int64) (int, error) {
	listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return 0, err
	}
	if path == "" {
		path = "/"
	}
	server := wrapper.NewServer()
	p.attach(nil, func(event string, function any) { server.On(event, function) })
	math := server.Of("math")
	p.attach("math", func(event string, function any) { math.On(event, function) })
	var accepting sync.Mutex
	var current *line
	// The library makes the client, and tells of it while it accepts.
	server.On("open", func(client *wrapper.Client) { p.adopt(client, current) })
	mux := http.NewServeMux()
	mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
		accepted, err := p.kind.accept(w, r)
		if err != nil {
			return
		}
		made := p.line(accepted, limit)
		accepting.Lock()
		defer accepting.Unlock()
		current = made
		_ = server.Accept(made)
	})
	go func() { _ = http.Serve(listener, mux) }()
	return listener.Addr().(*net.TCPAddr).Port, nil
}

// connect dials; with a peer, that one, handlers kept, is bound to the new connection.
func (p *peers) connect(c *command) (any, error) {
	dialed, err := p.kind.dial(c.URL)
	if err != nil {
		return nil, err
	}
	made := p.line(dialed, c.ReadLimit)
	var found *peer
	if c.Peer == nil {
		found = p.dialed(made)
	} else {
		if found, err = p.get(c.Peer); err != nil {
			return nil, err
		}
		found.bind(made)
	}
	return map[string]any{"peer": found.index}, nil
}

func (p *peers) line(s socket, limit int64) *line {
	if limit != 0 {
		s.limit(limit)
	}
	return &line{Conn: s.wrap(), socket: s}
}

// dialed makes a peer whose client is no server's.
func (p *peers) dialed(made *line) *peer {
	client := wrapper.NewClient(nil)
	p.attach(nil, func(event string, function any) { client.On(event, function) })
	math := client.Of("math")
	p.attach("math", func(event string, function any) { math.On(event, function) })
	adopted := p.adopt(client, made)
	adopted.bind(made)
	return adopted
}

func (p *peer) bind(made *line) {
	p.mutex.Lock()
	if p.present != nil {
		made.saw = p.present.saw
	}
	p.present, p.open = made, true
	p.mutex.Unlock()
	p.client.Bind(made)
}

// adopt gives a client its index and its place in the journal.
func (p *peers) adopt(client *wrapper.Client, made *line) *peer {
	adopted := &peer{client: client, present: made, open: true}
	p.mutex.Lock()
	adopted.index = len(p.all)
	client.Set("index", adopted.index)
	p.all = append(p.all, adopted)
	p.mutex.Unlock()
	p.journal.add(entry{"kind": "open", "peer": adopted.index})
	made.saw = func(msg wrapper.Message) { p.note(adopted.index, msg) }
	client.On("close", func(_ *wrapper.Client, code wrapper.StatusCode, reason string, byUser bool) {
		adopted.mutex.Lock()
		adopted.open = false
		adopted.mutex.Unlock()
		p.journal.add(entry{
			"kind": "close", "peer": adopted.index, "code": int(code), "reason": reason, "by_user": byUser,
		})
	})
	client.On("error", func(_ *wrapper.Client, err error) {
		p.journal.add(entry{"kind": "error", "peer": adopted.index, "message": err.Error()})
	})
	return adopted
}

func (p *peer) line() *line {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	return p.present
}

func (p *peer) connected() bool {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	return p.open
}

func (p *peers) showMessages(shown bool) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	p.messages = shown
}

// note keeps each log in the order of their arrival, which handlers, each in a goroutine of its own, do not know.
func (p *peers) note(index int, msg wrapper.Message) {
	p.mutex.Lock()
	messages := p.messages
	p.mutex.Unlock()
	if messages {
		p.journal.add(entry{"kind": "message", "peer": index, "data": msg})
	}
	if msg.IgnoreIfFalse != nil && !bool(*msg.IgnoreIfFalse) {
		return
	}
	channel, known := label(msg)
	if known && msg.EventName() == "log" && msg.RequestID == nil {
		p.journal.add(entry{
			"kind": "event", "peer": index, "channel": channel, "event": msg.EventName(),
			"args": append([]json.RawMessage{}, msg.HandlerArguments()...),
		})
	}
}
