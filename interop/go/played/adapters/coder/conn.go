// Package coder carries messages over coder/websocket.
package coder

import (
	"context"

	wrapper "github.com/bminer/ws-server-wrapper-go"
	"github.com/coder/websocket"
	"github.com/coder/websocket/wsjson"
)

type conn struct {
	*websocket.Conn
}

// Wrap makes a connection one that a client or a server takes. What it reads is bounded by the library's default, 32
// KiB, unless the program has called SetReadLimit.
func Wrap(c *websocket.Conn) wrapper.Conn {
	return conn{c}
}

// ReadMessage reads text and binary alike. What is no JSON closes with 1007 (wsjson does).
func (c conn) ReadMessage(ctx context.Context, msg *wrapper.Message) error {
	return wsjson.Read(ctx, c.Conn, msg)
}

// WriteMessage writes text that ends with a newline (wsjson does).
func (c conn) WriteMessage(ctx context.Context, msg *wrapper.Message) error {
	return wsjson.Write(ctx, c.Conn, msg)
}

func (c conn) Close(status wrapper.StatusCode, reason string) error {
	return c.Conn.Close(websocket.StatusCode(status), reason)
}
