package main

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"

	wrapper "github.com/bminer/ws-server-wrapper-go"
)

// largestMessage is what is read at most, in bytes: as much as wsrpc reads by default.
const largestMessage = 4 << 20

// serve is a plain server for the benchmarks, without a journal and without commands. It prints its port, and ends when
// its stdin does.
func serve(kind socketKind) error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := wrapper.NewServer()
	add := func(a, b int) (int, error) { return a + b, nil }
	server.On("add", add)
	server.On("add_async", add)
	server.On("echo", func(text string) (string, error) { return text, nil })
	clients := newAudience()
	server.On("open", clients.join)
	server.On("close", func(client *wrapper.Client, _ wrapper.StatusCode, _ string, _ bool) { clients.leave(client) })
	server.On("broadcast", func() (int, error) { return 1, clients.emit("tick", strings.Repeat("x", 100)) })
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		accepted, err := kind.accept(w, r)
		if err != nil {
			return
		}
		accepted.limit(largestMessage)
		_ = server.Accept(accepted.wrap())
	})
	go func() { _ = http.Serve(listener, handler) }()
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	_, _ = bufio.NewReader(os.Stdin).ReadString(0)
	return nil
}

// audience is everybody who is connected.
type audience struct {
	mutex   sync.Mutex
	clients map[*wrapper.Client]struct{}
}

func newAudience() *audience {
	return &audience{clients: map[*wrapper.Client]struct{}{}}
}

func (a *audience) join(client *wrapper.Client) {
	a.mutex.Lock()
	defer a.mutex.Unlock()
	a.clients[client] = struct{}{}
}

func (a *audience) leave(client *wrapper.Client) {
	a.mutex.Lock()
	defer a.mutex.Unlock()
	delete(a.clients, client)
}

func (a *audience) emit(arguments ...any) error {
	a.mutex.Lock()
	defer a.mutex.Unlock()
	for client := range a.clients {
		if err := client.Emit(context.Background(), arguments...); err != nil {
			return err
		}
	}
	return nil
}
