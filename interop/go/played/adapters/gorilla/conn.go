// Package gorilla carries messages over gorilla/websocket.
package gorilla

import (
	"context"
	"encoding/json"
	"sync"
	"time"

	wrapper "github.com/bminer/ws-server-wrapper-go"
	"github.com/gorilla/websocket"
)

type conn struct {
	*websocket.Conn
	writing sync.Mutex // gorilla allows one writer at a time
}

// Wrap makes a connection one that a client or a server takes. What it reads has no bound, unless the program has
// called SetReadLimit.
func Wrap(c *websocket.Conn) wrapper.Conn {
	return &conn{Conn: c}
}

var past = time.Unix(1, 0)

// ReadMessage reads text and binary alike. The end of the context is an end of the reading.
func (c *conn) ReadMessage(ctx context.Context, msg *wrapper.Message) error {
	var data []byte
	err := until(ctx, c.SetReadDeadline, func() (err error) {
		_, data, err = c.Conn.ReadMessage()
		return err
	})
	if err != nil {
		return err
	}
	return json.Unmarshal(data, msg)
}

func (c *conn) WriteMessage(ctx context.Context, msg *wrapper.Message) error {
	data, err := json.Marshal(msg)
	if err != nil {
		return err
	}
	c.writing.Lock()
	defer c.writing.Unlock()
	return until(ctx, c.SetWriteDeadline, func() error { return c.Conn.WriteMessage(websocket.TextMessage, data) })
}

// until interrupts what is run when the context ends. gorilla can then not go on with the connection.
func until(ctx context.Context, deadline func(time.Time) error, run func() error) error {
	set := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		_ = deadline(past)
		close(set)
	})
	err := run()
	if !stop() {
		<-set
		_ = deadline(time.Time{})
		return ctx.Err()
	}
	return err
}

// Close writes a Close frame and closes the socket, without waiting for the answer. A reason of more than 123 bytes
// does not fit, and then there is no frame.
func (c *conn) Close(status wrapper.StatusCode, reason string) error {
	frame := websocket.FormatCloseMessage(int(status), reason)
	err := c.WriteControl(websocket.CloseMessage, frame, time.Now().Add(5*time.Second))
	if closing := c.Conn.Close(); err == nil {
		err = closing
	}
	return err
}

func (c *conn) CloseNow() error {
	return c.Conn.Close()
}
