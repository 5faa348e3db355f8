package wrapper

import (
	"context"
	"fmt"
)

// call is one event or request that a handler is running for.
type call struct {
	client *Client
	id     *int
	ctx    context.Context // of the connection
	cancel context.CancelCauseFunc
	made   *AnonymousChannel // what the handler has asked for, if it did
}

// channel makes the call's anonymous channel, once. Only the handler's own goroutine may ask.
func (c *call) channel() *AnonymousChannel {
	if c.made == nil {
		c.made = newChannel(c.client, c.ctx, *c.id)
	}
	return c.made
}

func newChannel(client *Client, ctx context.Context, id int) *AnonymousChannel {
	channel := &AnonymousChannel{id: id, client: client}
	channel.ctx, channel.cancel = context.WithCancelCause(ctx)
	return channel
}

// receive deals with one message. An error ends the connection.
func (c *Client) receive(ctx context.Context, msg Message) error {
	switch id := msg.RequestID; {
	case msg.EventName() != "":
		return c.called(ctx, msg)
	case msg.AnonymousChannel != 0 && msg.CancelReason != nil:
		c.mutex.Lock()
		channel := c.channels[msg.AnonymousChannel]
		c.mutex.Unlock()
		if channel != nil {
			channel.end(msg.CancelCause())
		}
	case id == nil:
	case msg.AnonymousChannel != 0:
		c.opened(ctx, *id)
	case msg.CancelReason != nil:
		c.mutex.Lock()
		running := c.running[*id]
		delete(c.running, *id)
		c.mutex.Unlock()
		if running != nil {
			running.cancel(msg.CancelCause())
		}
	default:
		if waiting := c.settle(*id); waiting != nil {
			value, err := msg.Response()
			waiting.answer <- answer{value, err}
		}
	}
	return nil
}

// opened gives a request the channel that it is answered with. One that nobody waits for any more is not aborted.
func (c *Client) opened(ctx context.Context, id int) {
	waiting := c.settle(id)
	if waiting == nil {
		return
	}
	channel := newChannel(c, ctx, id)
	channel.ready = true
	c.mutex.Lock()
	c.channels[id] = channel
	channel.unbind = context.AfterFunc(waiting.ctx, func() {
		_ = channel.Abort(context.Cause(waiting.ctx))
	})
	c.mutex.Unlock()
	waiting.answer <- answer{value: channel}
}

func (c *Client) called(ctx context.Context, msg Message) error {
	at := address{msg.Channel, msg.AnonymousChannel, msg.EventName()}
	if at.id != 0 {
		c.mutex.Lock()
		channel := c.channels[at.id]
		c.mutex.Unlock()
		if channel == nil {
			// Each event is answered so, however many come.
			why := fmt.Errorf("anonymous channel %d not found", at.id)
			_ = c.abort(ctx, at.id, why)
			return c.reject(ctx, msg.RequestID, why)
		}
	}
	function := c.handlers.take(at)
	if function == nil && c.server != nil && at.id == 0 {
		function = c.server.handlers.take(at)
	}
	if function == nil {
		return c.reject(ctx, msg.RequestID, fmt.Errorf("no event listener for %s", at))
	}
	running := &call{client: c, id: msg.RequestID, ctx: ctx}
	handlerContext := ctx
	if msg.RequestID != nil {
		handlerContext, running.cancel = context.WithCancelCause(context.WithValue(ctx, channelKey, running))
		c.mutex.Lock()
		c.running[*msg.RequestID] = running // a second one with this id hides the first
		c.mutex.Unlock()
	}
	go func() {
		value, err := invoke(handlerContext, function, msg.HandlerArguments())
		if err := running.finish(value, err); err != nil {
			c.fail(fmt.Errorf("responding to request: %w", err))
		}
	}()
	return nil
}

// finish answers a request, also one that was cancelled. A value that cannot be encoded is an error, which ends the
// connection.
func (c *call) finish(value any, err error) error {
	if c.id == nil {
		return nil
	}
	c.cancel(context.Canceled)
	client := c.client
	client.mutex.Lock()
	delete(client.running, *c.id)
	delivered := err == nil && c.made != nil && value == any(c.made)
	if delivered {
		client.channels[*c.id] = c.made
	}
	client.mutex.Unlock()
	if delivered {
		err := client.reply(c.ctx, Message{RequestID: c.id, AnonymousChannel: 1})
		client.mutex.Lock()
		c.made.ready = err == nil // the other side may have spoken on it by now, and may not be answered yet
		client.mutex.Unlock()
		return err
	}
	if c.made != nil {
		c.made.end(context.Canceled)
	}
	if err != nil {
		return client.reject(c.ctx, c.id, err)
	}
	return client.reply(c.ctx, Message{RequestID: c.id, ResponseData: value})
}
