// Command servers is what people write or run in Go instead of wsrpc. It prints its port, and ends when its stdin does.
//
//	servers coder                     JSON by hand over coder/websocket
//	servers centrifuge [--redis=PORT] the library that Centrifugo is made of, with a handler for calls in the process
package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
)

// largest is what is read at most, in bytes: as much as wsrpc reads by default.
const largest = 4 << 20

// tick is what a broadcast says.
var tick = strings.Repeat("x", 100)

func fail(format string, arguments ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", arguments...)
	os.Exit(1)
}

func main() {
	kinds := map[string]func([]string) http.Handler{"coder": byHand, "centrifuge": centrifugal}
	handler := kinds[os.Args[1]](os.Args[2:])
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fail("%v", err)
	}
	go func() { fail("%v", http.Serve(listener, handler)) }()
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	_, _ = io.Copy(io.Discard, os.Stdin)
}
