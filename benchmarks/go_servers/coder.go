package main

import (
	"context"
	"encoding/json"
	"net/http"
	"sync"

	"github.com/coder/websocket"
)

type request struct {
	ID        int               `json:"i"`
	Arguments []json.RawMessage `json:"a"`
}

type answer struct {
	ID     int `json:"i"`
	Result any `json:"d"`
}

type numbers = [2]int

// audience is everybody who is connected.
type audience struct {
	mutex       sync.Mutex
	connections map[*websocket.Conn]struct{}
}

func (a *audience) send(ctx context.Context, message []byte) {
	a.mutex.Lock()
	defer a.mutex.Unlock()
	for connection := range a.connections {
		_ = connection.Write(ctx, websocket.MessageText, message)
	}
}

func (a *audience) call(ctx context.Context, request request) (any, error) {
	var name string
	if err := json.Unmarshal(request.Arguments[0], &name); err != nil {
		return nil, err
	}
	switch name {
	case "echo":
		var text string
		err := json.Unmarshal(request.Arguments[1], &text)
		return text, err
	case "broadcast":
		message, err := json.Marshal(map[string]any{"a": []string{"tick", tick}})
		a.send(ctx, message)
		return 1, err
	default:
		var pair numbers
		for at := range pair {
			if err := json.Unmarshal(request.Arguments[at+1], &pair[at]); err != nil {
				return nil, err
			}
		}
		return pair[0] + pair[1], nil
	}
}

// byHand is what one writes over coder/websocket: a loop for each connection, JSON, a table of functions.
func byHand([]string) http.Handler {
	all := &audience{connections: map[*websocket.Conn]struct{}{}}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		connection, err := websocket.Accept(w, r, &websocket.AcceptOptions{CompressionMode: websocket.CompressionDisabled})
		if err != nil {
			return
		}
		connection.SetReadLimit(largest)
		all.mutex.Lock()
		all.connections[connection] = struct{}{}
		all.mutex.Unlock()
		defer func() {
			all.mutex.Lock()
			delete(all.connections, connection)
			all.mutex.Unlock()
			_ = connection.CloseNow()
		}()
		for ctx := r.Context(); ; {
			_, data, err := connection.Read(ctx)
			if err != nil {
				return
			}
			var asked request
			if json.Unmarshal(data, &asked) != nil {
				return
			}
			result, err := all.call(ctx, asked)
			if err != nil {
				return
			}
			message, err := json.Marshal(answer{asked.ID, result})
			if err != nil || connection.Write(ctx, websocket.MessageText, message) != nil {
				return
			}
		}
	})
}
