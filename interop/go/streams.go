//go:build !wrapper16

package main

import (
	"context"
	"errors"
	"time"

	wrapper "github.com/bminer/ws-server-wrapper-go"
)

// The library has anonymous channels and no iteration. What is here does by hand what ws-wrapper's iterator protocol
// says: the consumer emits start, the producer sends next with {value, done}, by events or by requests.

type item struct {
	Value any  `json:"value,omitempty"`
	Done  bool `json:"done"`
}

// speaking is the context of what is sent on a channel. It is not the channel's own, whose end, coming while a message is
// written, would end the connection.
var speaking = context.Background()

// say emits as soon as the channel may be used.
func say(channel *wrapper.AnonymousChannel, event string, arguments ...any) error {
	return patiently(func() error { return channel.Emit(speaking, append([]any{event}, arguments...)...) })
}

// attachStreams adds the handlers whose answer is an anonymous channel.
func (p *peers) attachStreams(on registering) {
	on("channel_make", func(ctx context.Context) (any, error) { return p.makeChannel(ctx), nil })
	on("channel_talk", func(ctx context.Context, n int) (any, error) {
		channel := p.makeChannel(ctx)
		go func() {
			for k := range n {
				if say(channel, "line", k) != nil {
					return
				}
			}
		}()
		return channel, nil
	})
	on("count", func(ctx context.Context, n int) (any, error) {
		return p.streamed(ctx, func(give func(any) bool) error {
			for k := 0; k < n && give(k); k++ {
			}
			return nil
		}), nil
	})
	on("count_then_fail", func(ctx context.Context, n int) (any, error) {
		return p.streamed(ctx, func(give func(any) bool) error {
			for k := 0; k < n && give(k); k++ {
			}
			return errors.New("the stream failed")
		}), nil
	})
	on("ticks", func(ctx context.Context, ms float64) (any, error) {
		return p.streamed(ctx, func(give func(any) bool) error {
			for k := 0; give(k); k++ {
				time.Sleep(time.Duration(ms * float64(time.Millisecond)))
			}
			return nil
		}), nil
	})
	on("total", p.total)
}

// streamed makes a channel on which items are poured once its consumer wants them.
func (p *peers) streamed(ctx context.Context, pour func(give func(any) bool) error) *wrapper.AnonymousChannel {
	channel, peer := p.makeChannel(ctx), indexIn(ctx)
	channel.On("start", func() error {
		sent := 0
		go func() {
			err := pour(func(value any) bool {
				if channel.Context().Err() != nil {
					return false
				}
				if say(channel, "next", map[string]any{"value": value, "done": false}) != nil {
					return false
				}
				sent++
				return true
			})
			if err != nil {
				_ = channel.Abort(err)
			} else if channel.Context().Err() == nil {
				_ = say(channel, "next", item{Done: true})
				_ = channel.Close()
			}
			p.journal.add(entry{"kind": "stream_ended", "peer": peer, "sent": sent})
		}()
		return nil
	})
	return channel
}

// total sums up what the requestor sends.
func (p *peers) total(ctx context.Context, _ []any) (any, error) {
	channel := p.makeChannel(ctx)
	sum := 0.0 // items come as requests, one at a time
	channel.On("next", func(got item) (any, error) {
		if got.Done {
			defer channel.Close()
			return sum, nil
		}
		sum += got.Value.(float64)
		return nil, nil
	})
	go func() { _ = say(channel, "start") }()
	return channel, nil
}
