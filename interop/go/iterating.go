//go:build !wrapper16

package main

import (
	"context"
	"errors"

	wrapper "github.com/bminer/ws-server-wrapper-go"
)

func (a *agent) addChannelCommands() {
	a.commands["abort_channel"] = a.abortChannel
	a.commands["iterate"] = a.iterate
	a.commands["upload"] = a.upload
}

// opened is the channel that a request brings.
func (a *agent) opened(c *command) (*peer, *wrapper.AnonymousChannel, error) {
	peer, value, err := a.ask(c)
	if err != nil {
		return nil, nil, err
	}
	channel, ok := value.(*wrapper.AnonymousChannel)
	if !ok {
		return nil, nil, errors.New("the answer is no channel")
	}
	a.peers.addChannel(channel, peer.index)
	return peer, channel, nil
}

// iterate reads a stream, and answers each item that came as a request when it has been read.
func (a *agent) iterate(c *command) (any, error) {
	items := []any{}
	ended := func(err error) (any, error) {
		return map[string]any{"items": items, "rejected": thrown(err)}, nil
	}
	_, channel, err := a.opened(c)
	if err != nil {
		return ended(err)
	}
	arriving := make(chan item)
	channel.On("next", func(got item) error {
		select {
		case arriving <- got:
			return nil
		case <-channel.Context().Done():
			return context.Cause(channel.Context())
		}
	})
	if err := channel.Emit(speaking, "start"); err != nil {
		return ended(err)
	}
	for {
		select {
		case <-channel.Context().Done():
			return ended(context.Cause(channel.Context()))
		case got := <-arriving:
			if got.Done {
				return map[string]any{"items": items}, channel.Close()
			}
			items = append(items, got.Value)
		}
		if c.Take != nil && len(items) == *c.Take {
			if c.Leave == "break" {
				return map[string]any{"items": items}, nil
			}
			why := reason(c.Reason)
			if why == nil {
				why = errors.New("enough")
			}
			return map[string]any{"items": items}, channel.Abort(why)
		}
	}
}

// upload sends numbers on the channel that a request brings, each when the one before was taken.
func (a *agent) upload(c *command) (any, error) {
	peer, channel, err := a.opened(c)
	if err != nil {
		return map[string]any{"rejected": thrown(err), "sent": 0}, nil
	}
	defer channel.Close()
	stop := make(chan struct{}, 1)
	channel.On("stop", func() error {
		stop <- struct{}{}
		return nil
	})
	sent := 0
	outcome := func(value any, err error) (any, error) {
		if err != nil {
			return map[string]any{"rejected": thrown(err), "sent": sent}, nil
		}
		return map[string]any{"resolved": value, "sent": sent}, nil
	}
	for wanted := true; wanted && (c.N == nil || sent < *c.N); {
		a.journal.add(entry{"kind": "sent", "peer": peer.index, "item": sent})
		sent++
		next := map[string]any{"value": sent - 1, "done": false}
		// A request is not ended by its channel's end, but by that of the context.
		if value, err := channel.Request(channel.Context(), "next", next); err != nil {
			return outcome(value, err)
		}
		select {
		case <-stop:
			wanted = false
		default:
		}
	}
	return outcome(channel.Request(channel.Context(), "next", item{Done: true}))
}
