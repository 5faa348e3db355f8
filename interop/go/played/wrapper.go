// Package wrapper does on the wire what ws-server-wrapper-go 1.7 does, for machines where that module is not to be had.
//
// It is no copy. It was written from that library's documented API and messages, and from what it was seen to do, its
// mistakes included, which the comments name. It has as much of the library's face as the agent of these tests uses,
// and its module path, so that the same agent runs on either: see ../go.mod.
package wrapper

import (
	"context"
	"errors"
	"fmt"
)

// Conn is one WebSocket connection that carries messages, whichever library it is of.
type Conn interface {
	ReadMessage(ctx context.Context, msg *Message) error
	WriteMessage(ctx context.Context, msg *Message) error
	Close(status StatusCode, reason string) error
	CloseNow() error
}

// StatusCode is a close code of RFC 6455.
type StatusCode int

// Those that the library sends by itself.
const (
	StatusNormalClosure StatusCode = 1000
	StatusGoingAway     StatusCode = 1001
	StatusInternalError StatusCode = 1011
)

var (
	errClosed   = errors.New("connection closed")
	errRebound  = errors.New("client bound to new connection")
	errNotReady = errors.New("anonymous channel not yet ready")
)

// ChannelClosedError says that a channel cannot be used any more.
type ChannelClosedError struct {
	Channel string
}

func (e ChannelClosedError) Error() string {
	return fmt.Sprintf("channel '%s' is closed", e.Channel)
}

// IsReservedEvent tells whether a name is the library's own on the main channel.
func IsReservedEvent(event string) bool {
	switch event {
	case "open", "connect", "error", "message", "close", "disconnect":
		return true
	}
	return false
}

type contextKey int

const (
	clientKey contextKey = iota
	channelKey
)

// ClientFromContext gives a handler the client whose message it handles.
func ClientFromContext(ctx context.Context) *Client {
	client, _ := ctx.Value(clientKey).(*Client)
	return client
}

// Channel gives the handler of a request the anonymous channel that it may return; nil elsewhere.
func Channel(ctx context.Context) *AnonymousChannel {
	if call, ok := ctx.Value(channelKey).(*call); ok {
		return call.channel()
	}
	return nil
}
