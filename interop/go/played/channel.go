package wrapper

import (
	"context"
	"errors"
	"fmt"
	"strconv"
)

// ClientChannel is the main channel of one client, or a named one.
type ClientChannel struct {
	name   string
	client *Client
}

// On registers the function for an event; nil removes it. The last one counts.
func (c ClientChannel) On(event string, function any) ClientChannel {
	c.client.handlers.put(address{channel: c.name, event: event}, function, false)
	return c
}

// Emit sends an event: its name, then its arguments.
func (c ClientChannel) Emit(ctx context.Context, arguments ...any) error {
	if err := c.check(arguments); err != nil {
		return err
	}
	return c.client.emit(ctx, Message{Channel: c.name}, arguments)
}

// Request sends a request and waits for its answer. Cancelling the context cancels it remotely.
func (c ClientChannel) Request(ctx context.Context, arguments ...any) (any, error) {
	if err := c.check(arguments); err != nil {
		return nil, err
	}
	return c.client.request(ctx, Message{Channel: c.name}, arguments)
}

func (c ClientChannel) check(arguments []any) error {
	event, err := nameOf(arguments)
	if err == nil && c.name == "" && IsReservedEvent(event) {
		err = fmt.Errorf("cannot emit reserved event '%s' on main channel", event)
	}
	return err
}

func nameOf(arguments []any) (string, error) {
	if len(arguments) == 0 {
		return "", errors.New("event name is required")
	}
	event, ok := arguments[0].(string)
	if !ok {
		return "", errors.New("event name must be a string")
	}
	return event, nil
}

// AnonymousChannel belongs to one request. Its maker can register on it at once, and speak once it was delivered.
type AnonymousChannel struct {
	id     int
	client *Client
	ctx    context.Context
	cancel context.CancelCauseFunc
	ready  bool // these two are guarded by the client's mutex
	over   bool
	unbind func() bool
}

// On registers the function for an event on this channel.
func (c *AnonymousChannel) On(event string, function any) *AnonymousChannel {
	c.client.mutex.Lock()
	over := c.over
	c.client.mutex.Unlock()
	if !over {
		c.client.handlers.put(address{id: c.id, event: event}, function, false)
	}
	return c
}

// Emit sends an event on it.
func (c *AnonymousChannel) Emit(ctx context.Context, arguments ...any) error {
	if err := c.check(arguments); err != nil {
		return err
	}
	return c.client.emit(ctx, Message{AnonymousChannel: c.id}, arguments)
}

// Request sends a request on it. It is not ended by the channel's end.
func (c *AnonymousChannel) Request(ctx context.Context, arguments ...any) (any, error) {
	if err := c.check(arguments); err != nil {
		return nil, err
	}
	return c.client.request(ctx, Message{AnonymousChannel: c.id}, arguments)
}

func (c *AnonymousChannel) check(arguments []any) error {
	c.client.mutex.Lock()
	ready, over := c.ready, c.over
	c.client.mutex.Unlock()
	if !ready {
		return errNotReady
	}
	if over {
		return ChannelClosedError{Channel: strconv.Itoa(c.id)}
	}
	_, err := nameOf(arguments)
	return err
}

// Context ends with the channel; its cause says why.
func (c *AnonymousChannel) Context() context.Context {
	return c.ctx
}

// Close ends the channel here and tells nobody.
func (c *AnonymousChannel) Close() error {
	c.end(context.Canceled)
	return nil
}

// Abort ends the channel on both sides.
func (c *AnonymousChannel) Abort(reason error) error {
	if reason == nil {
		reason = context.Canceled
	}
	c.client.mutex.Lock()
	over := c.over
	c.client.mutex.Unlock()
	if over {
		return nil
	}
	defer c.end(reason)
	return c.client.abort(c.ctx, c.id, reason)
}

func (c *AnonymousChannel) end(reason error) {
	client := c.client
	client.mutex.Lock()
	over := c.over
	c.over = true
	if client.channels[c.id] == c {
		delete(client.channels, c.id)
	}
	client.mutex.Unlock()
	if over {
		return
	}
	client.handlers.clear("", c.id)
	if c.unbind != nil {
		c.unbind()
	}
	c.cancel(reason)
}
