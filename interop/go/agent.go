package main

import (
	"encoding/json"
	"errors"
	"fmt"
)

// command is one line of the driver, with the fields of all commands.
type command struct {
	ID        int
	Command   string
	Peer      *int
	Channel   json.RawMessage
	Event     string
	Args      []any
	Ref       string
	Reason    any
	TimeoutMS float64 `json:"timeout_ms"`

	Port      int
	Path      string
	ReadLimit int64 `json:"read_limit"`
	URL       string

	N     *int
	Take  *int
	Leave string

	Data   string
	Binary bool
	Code   int

	Kind     *string
	AtLeast  int `json:"at_least"`
	Messages *bool

	Middleware any
	ErrorProps bool `json:"error_props"`
}

// agent is what one process plays.
type agent struct {
	journal  *journal
	peers    *peers
	cancels  *cancels
	commands map[string]func(*command) (any, error)
}

func newAgent(kind socketKind) *agent {
	journal := newJournal()
	a := &agent{journal: journal, peers: newPeers(kind, journal), cancels: newCancels()}
	a.commands = map[string]func(*command) (any, error){
		"listen":    a.listen,
		"connect":   a.connect,
		"close":     a.close,
		"terminate": a.terminate,
		"send_raw":  a.sendRaw,
		"state":     a.state,
		"emit":      a.emit,
		"request":   a.request,
		"cancel":    a.cancel,
		"events":    a.events,
		"set":       a.set,
	}
	a.addChannelCommands()
	return a
}

func (a *agent) obey(c *command) (any, error) {
	run, ok := a.commands[c.Command]
	if !ok {
		return nil, fmt.Errorf("no command '%s' in Go", c.Command)
	}
	return run(c)
}

// nameOf is the name of a channel that a command gives; "" is the main one.
func nameOf(channel json.RawMessage) string {
	var name string
	if len(channel) > 0 {
		_ = json.Unmarshal(channel, &name)
	}
	return name
}

func (a *agent) listen(c *command) (any, error) {
	port, err := a.peers.listen(c.Port, c.Path, c.ReadLimit)
	if err != nil {
		return nil, err
	}
	return map[string]any{"port": port, "url": fmt.Sprintf("ws://127.0.0.1:%d%s", port, c.Path)}, nil
}

func (a *agent) connect(c *command) (any, error) {
	return a.peers.connect(c)
}

func (a *agent) close(c *command) (any, error) {
	peer, err := a.peers.get(c.Peer)
	if err != nil {
		return nil, err
	}
	code := c.Code
	if code == 0 {
		code = 1000 // the library has no closing without a code
	}
	reason, _ := c.Reason.(string)
	// It waits for the answer of the other side, which the driver does not.
	go func() { _ = peer.client.Close(statusCode(code), reason) }()
	return nil, nil
}

func (a *agent) terminate(c *command) (any, error) {
	peer, err := a.peers.get(c.Peer)
	if err != nil {
		return nil, err
	}
	return nil, peer.line().CloseNow()
}

func (a *agent) sendRaw(c *command) (any, error) {
	peer, err := a.peers.get(c.Peer)
	if err != nil {
		return nil, err
	}
	return nil, peer.line().send([]byte(c.Data), c.Binary)
}

func (a *agent) state(c *command) (any, error) {
	if a.peers.count() == 0 {
		return map[string]any{"peers": 0, "connected": false, "pending": nil, "active": nil, "channels": 0}, nil
	}
	peer, err := a.peers.get(c.Peer)
	if err != nil {
		return nil, err
	}
	return map[string]any{
		"peers": a.peers.count(), "connected": peer.connected(), "pending": nil, "active": nil,
		"channels": a.peers.openChannels(peer.index),
	}, nil
}

func (a *agent) events(c *command) (any, error) {
	return a.journal.take(c.Kind, c.Peer, c.AtLeast), nil
}

func (a *agent) set(c *command) (any, error) {
	if c.Middleware != nil || c.ErrorProps {
		return nil, errors.New("in Go there is no middleware, and of an error only its text is sent")
	}
	if c.Messages != nil {
		a.peers.showMessages(*c.Messages)
	}
	return nil, nil
}
