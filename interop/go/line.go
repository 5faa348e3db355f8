package main

import (
	"context"
	"encoding/json"
	"sync"

	wrapper "github.com/bminer/ws-server-wrapper-go"
)

// packed are the events whose handlers here take any number of arguments. In Go that number is fixed, so whoever wants
// that takes one list: the line makes one of what arrives.
var packed = map[string]bool{"args": true, "ask": true, "hang": true, "log": true, "total": true, "wait": true}

// line is a connection as the library gets it, with what the driver wants besides: messages that are not the library's.
type line struct {
	wrapper.Conn
	socket socket
	mutex  sync.Mutex // one writer at a time
	saw    func(wrapper.Message)
}

func (l *line) ReadMessage(ctx context.Context, msg *wrapper.Message) error {
	if err := l.Conn.ReadMessage(ctx, msg); err != nil {
		return err
	}
	if msg.CancelReason != nil {
		l.whenWritten(func() {}) // before the library ends a context with which something may be being written
	}
	l.saw(*msg)
	if packed[msg.EventName()] {
		list, err := json.Marshal(msg.HandlerArguments())
		if err != nil {
			return err
		}
		if len(msg.Arguments) == 1 {
			list = []byte("[]")
		}
		msg.Arguments = []json.RawMessage{msg.Arguments[0], list}
	}
	return nil
}

func (l *line) WriteMessage(ctx context.Context, msg *wrapper.Message) error {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	return l.Conn.WriteMessage(ctx, msg)
}

// whenWritten runs a function while no message is being written. A context that ends meanwhile would end the connection,
// and what ends a context here is to be about other things.
func (l *line) whenWritten(run func()) {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	run()
}

func (l *line) send(data []byte, binary bool) error {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	return l.socket.send(data, binary)
}
