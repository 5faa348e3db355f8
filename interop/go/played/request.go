package wrapper

import (
	"context"
	"fmt"
)

// answer is a request's value, or why there is none.
type answer struct {
	value any
	err   error
}

// request is one that was asked here and is not answered yet.
type request struct {
	answer chan answer
	ctx    context.Context // whoever ends it also aborts the channel that the request has brought
}

func (c *Client) request(ctx context.Context, msg Message, arguments []any) (any, error) {
	waiting := &request{answer: make(chan answer, 1), ctx: ctx}
	c.mutex.Lock()
	if c.conn == nil {
		c.mutex.Unlock()
		return nil, errClosed
	}
	lost := c.ctx
	c.last++
	id := c.last
	c.pending[id] = waiting
	c.mutex.Unlock()
	var err error
	msg.RequestID = &id
	if msg.Arguments, err = encoded(arguments); err == nil {
		err = c.write(ctx, msg)
	}
	if err != nil {
		c.settle(id)
		return nil, fmt.Errorf("sending request: %w", err)
	}
	select {
	case got := <-waiting.answer:
		return got.value, got.err
	case <-lost.Done():
		return nil, fmt.Errorf("awaiting response: %w", context.Cause(lost))
	case <-ctx.Done():
		cause := context.Cause(ctx)
		if c.settle(id) != nil {
			reason, isError := thrown(cause)
			_ = c.reply(lost, Message{RequestID: &id, CancelReason: reason, ResponseJSError: isError})
		}
		return nil, fmt.Errorf("awaiting response: %w", cause)
	}
}

// settle takes a request out of the table; nil if it is not there.
func (c *Client) settle(id int) *request {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	found := c.pending[id]
	delete(c.pending, id)
	return found
}

// abort tells the other side that a channel is over.
func (c *Client) abort(ctx context.Context, id int, why error) error {
	reason, isError := thrown(why)
	return c.write(ctx, Message{AnonymousChannel: id, CancelReason: reason, ResponseJSError: isError})
}

// reject answers a request with an error.
func (c *Client) reject(ctx context.Context, id *int, why error) error {
	if id == nil {
		return nil
	}
	reason, isError := thrown(why)
	return c.reply(ctx, Message{RequestID: id, ResponseError: reason, ResponseJSError: isError})
}
