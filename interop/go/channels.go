//go:build !wrapper16

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"time"

	wrapper "github.com/bminer/ws-server-wrapper-go"
)

// can is what the driver may ask of the library, beyond what all libraries have.
var can = []string{"drops", "cancels", "anonymous"}

// channelTable has the anonymous channels of all peers; the position is the key.
type channelTable struct {
	guard     sync.Mutex
	anonymous []*anonymous
}

// anonymous is a channel that may be used as soon as the other side has heard of it. The library refuses that for a
// while, even if the other side has said start by then, and does not tell how long.
type anonymous struct {
	*wrapper.AnonymousChannel
	peer int
}

func (c *anonymous) Emit(ctx context.Context, arguments ...any) error {
	return patiently(func() error { return c.AnonymousChannel.Emit(ctx, arguments...) })
}

func (c *anonymous) Request(ctx context.Context, arguments ...any) (value any, err error) {
	err = patiently(func() error {
		value, err = c.AnonymousChannel.Request(ctx, arguments...)
		return err
	})
	return value, err
}

func patiently(try func() error) error {
	for {
		if err := try(); err == nil || !strings.HasSuffix(err.Error(), "not yet ready") {
			return err
		}
		time.Sleep(time.Millisecond)
	}
}

// addChannel gives a channel its key, its handlers and its place in the journal.
func (p *peers) addChannel(channel *wrapper.AnonymousChannel, peer int) map[string]any {
	added := &anonymous{channel, peer}
	p.guard.Lock()
	label := map[string]any{"$channel": len(p.anonymous)}
	p.anonymous = append(p.anonymous, added)
	p.guard.Unlock()
	p.journal.add(entry{"kind": "channel", "peer": peer, "channel": label})
	on := func(event string, function any) { channel.On(event, function) }
	p.attachTo(label, on, func(context.Context) speaker { return added })
	// There are no ids in the library's face, so events are put into the journal by their handlers.
	channel.On("log", func(list []json.RawMessage) error {
		p.journal.add(entry{"kind": "event", "peer": peer, "channel": label, "event": "log", "args": list})
		return nil
	})
	context.AfterFunc(channel.Context(), func() {
		why := thrown(context.Cause(channel.Context()))
		p.journal.add(entry{"kind": "channel_closed", "peer": peer, "channel": label, "reason": why})
	})
	return label
}

// adoptAnswer is what the driver is told of a request's answer. A channel gets its handlers here, which is as early as
// any user of the library can do it, and yet too late for events that arrived in the same read as the channel.
func (p *peers) adoptAnswer(from *peer, value any) any {
	if channel, ok := value.(*wrapper.AnonymousChannel); ok {
		return p.addChannel(channel, from.index)
	}
	return value
}

// madeFor makes the channel of a handler that wants one.
func (p *peers) madeFor(ctx context.Context, wanted bool) {
	if wanted {
		p.makeChannel(ctx)
	}
}

func (p *peers) makeChannel(ctx context.Context) *wrapper.AnonymousChannel {
	channel := wrapper.Channel(ctx)
	if channel == nil {
		runtime.Goexit() // of an event, whose handler has no channel to return, and whom nobody waits for
	}
	p.addChannel(channel, indexIn(ctx))
	return channel
}

// label is how the journal calls the channel of a message; false if it is one of the anonymous ones.
func label(msg wrapper.Message) (any, bool) {
	if msg.AnonymousChannel != 0 {
		return nil, false
	}
	if msg.Channel == "" {
		return nil, true
	}
	return msg.Channel, true
}

func (p *peers) openChannels(peer int) int {
	p.guard.Lock()
	defer p.guard.Unlock()
	count := 0
	for _, channel := range p.anonymous {
		if channel.peer == peer && channel.Context().Err() == nil {
			count++
		}
	}
	return count
}

func (p *peers) channel(key int) (*anonymous, error) {
	p.guard.Lock()
	defer p.guard.Unlock()
	if key < 0 || key >= len(p.anonymous) {
		return nil, fmt.Errorf("no anonymous channel %d", key)
	}
	return p.anonymous[key], nil
}

// target is where a command wants to speak: on the main channel (null), a named one (text) or an anonymous one.
func (a *agent) target(c *command) (*peer, speaker, error) {
	peer, err := a.peers.get(c.Peer)
	if err != nil {
		return nil, nil, err
	}
	if found, err := a.anonymous(c); found != nil || err != nil {
		return peer, found, err
	}
	name := nameOf(c.Channel)
	if name == "" {
		return peer, peer.client, nil
	}
	return peer, peer.client.Of(name), nil
}

// anonymous is the anonymous channel that a command names; nil if it names none.
func (a *agent) anonymous(c *command) (*anonymous, error) {
	var reference struct {
		Key *int `json:"$channel"`
	}
	if json.Unmarshal(c.Channel, &reference) != nil || reference.Key == nil {
		return nil, nil
	}
	return a.peers.channel(*reference.Key)
}

func (a *agent) abortChannel(c *command) (any, error) {
	channel, err := a.anonymous(c)
	if err != nil {
		return nil, err
	}
	return nil, channel.Abort(reason(c.Reason))
}
