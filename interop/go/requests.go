package main

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// cancels are the requests that the driver may cancel, by the name that it has given them.
type cancels struct {
	mutex sync.Mutex
	byRef map[string]context.CancelCauseFunc
}

func newCancels() *cancels {
	return &cancels{byRef: map[string]context.CancelCauseFunc{}}
}

func (c *cancels) put(ref string, cancel context.CancelCauseFunc) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	if cancel == nil {
		delete(c.byRef, ref)
	} else {
		c.byRef[ref] = cancel
	}
}

func (a *agent) emit(c *command) (any, error) {
	_, to, err := a.target(c)
	if err != nil {
		return nil, err
	}
	return nil, to.Emit(context.Background(), append([]any{c.Event}, c.Args...)...)
}

// ask sends one request. Its time ends with the answer; a channel that it brings goes on.
func (a *agent) ask(c *command) (*peer, any, error) {
	peer, to, err := a.target(c)
	if err != nil {
		return nil, nil, err
	}
	ctx, end := context.WithCancelCause(context.Background())
	cancel := func(why error) { peer.line().whenWritten(func() { end(why) }) }
	if c.Ref != "" {
		a.cancels.put(c.Ref, cancel)
		defer a.cancels.put(c.Ref, nil)
	}
	patience := time.Hour
	if c.TimeoutMS > 0 {
		patience = time.Duration(c.TimeoutMS * float64(time.Millisecond))
	}
	late := time.AfterFunc(patience, func() { cancel(context.DeadlineExceeded) })
	defer late.Stop()
	value, err := to.Request(ctx, append([]any{c.Event}, c.Args...)...)
	return peer, value, err
}

func (a *agent) request(c *command) (any, error) {
	peer, value, err := a.ask(c)
	if err != nil {
		return map[string]any{"rejected": thrown(err)}, nil
	}
	return map[string]any{"resolved": a.peers.adoptAnswer(peer, value), "undefined": value == nil}, nil
}

func (a *agent) cancel(c *command) (any, error) {
	a.cancels.mutex.Lock()
	cancel := a.cancels.byRef[c.Ref]
	a.cancels.mutex.Unlock()
	if cancel == nil {
		return nil, fmt.Errorf("no request under way with ref %s", c.Ref)
	}
	cancel(reason(c.Reason))
	return nil, nil
}
