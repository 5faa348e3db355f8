package main

import (
	"context"
	"net/http"

	wrapper "github.com/bminer/ws-server-wrapper-go"
	"github.com/bminer/ws-server-wrapper-go/adapters/coder"
	"github.com/bminer/ws-server-wrapper-go/adapters/gorilla"
	coderws "github.com/coder/websocket"
	gorillaws "github.com/gorilla/websocket"
)

// socket is a connection of one of the WebSocket libraries. limit is in bytes, 0 for the library's own default.
type socket interface {
	wrap() wrapper.Conn
	limit(bytes int64)
	send(data []byte, binary bool) error
}

// socketKind is a WebSocket library.
type socketKind struct {
	accept func(http.ResponseWriter, *http.Request) (socket, error)
	dial   func(url string) (socket, error)
}

var sockets = map[string]socketKind{
	"coder": {
		accept: func(w http.ResponseWriter, r *http.Request) (socket, error) {
			c, err := coderws.Accept(w, r, nil)
			return coderSocket{c}, err
		},
		dial: func(url string) (socket, error) {
			c, _, err := coderws.Dial(context.Background(), url, nil)
			return coderSocket{c}, err
		},
	},
	"gorilla": {
		accept: func(w http.ResponseWriter, r *http.Request) (socket, error) {
			c, err := (&gorillaws.Upgrader{}).Upgrade(w, r, nil)
			return gorillaSocket{c}, err
		},
		dial: func(url string) (socket, error) {
			c, _, err := (&gorillaws.Dialer{}).Dial(url, nil)
			return gorillaSocket{c}, err
		},
	},
}

type coderSocket struct{ *coderws.Conn }

func (s coderSocket) wrap() wrapper.Conn { return coder.Wrap(s.Conn) }
func (s coderSocket) limit(bytes int64)  { s.SetReadLimit(bytes) }

func (s coderSocket) send(data []byte, binary bool) error {
	kind := coderws.MessageText
	if binary {
		kind = coderws.MessageBinary
	}
	return s.Write(context.Background(), kind, data)
}

type gorillaSocket struct{ *gorillaws.Conn }

func (s gorillaSocket) wrap() wrapper.Conn { return gorilla.Wrap(s.Conn) }
func (s gorillaSocket) limit(bytes int64)  { s.SetReadLimit(bytes) }

func (s gorillaSocket) send(data []byte, binary bool) error {
	kind := gorillaws.TextMessage
	if binary {
		kind = gorillaws.BinaryMessage
	}
	return s.WriteMessage(kind, data)
}
