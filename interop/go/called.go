package main

import (
	"context"
	"encoding/json"
	"sync"
	"sync/atomic"

	wrapper "github.com/bminer/ws-server-wrapper-go"
)

// called tells the other side of each call of a handler, by an event `called(channel, event, args)`, if that is wanted.
type called struct {
	wanted atomic.Bool
	mutex  sync.Mutex
	events map[string]bool // those that have a handler, which is on each channel that has handlers at all
}

func newCalled() *called {
	return &called{events: map[string]bool{}}
}

// has notes that there is a handler.
func (c *called) has(event string) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	c.events[event] = true
}

// tell is called before the library sees the message. So what it says is in the order of arrival and comes before what
// the handler says, neither of which could be had from the handler, which has a goroutine of its own.
func (c *called) tell(client *wrapper.Client, channel any, msg wrapper.Message) {
	name, named := channel.(string)
	if !c.wanted.Load() || named && name != "math" {
		return
	}
	c.mutex.Lock()
	known := c.events[msg.EventName()]
	c.mutex.Unlock()
	if known {
		arguments := append([]json.RawMessage{}, msg.HandlerArguments()...)
		_ = client.Emit(context.Background(), "called", channel, msg.EventName(), arguments)
	}
}
