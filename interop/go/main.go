// Command interop is a peer of ws-server-wrapper-go, in either role, driven by JSON lines. The commands are described in
// ../agents.py.
//
//	interop -socket coder|gorilla
//	interop -socket coder|gorilla -serve      a plain server for the benchmarks: see serving.go
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
)

const library = "github.com/bminer/ws-server-wrapper-go"

// output writes whole lines, whoever writes.
type output struct {
	mutex sync.Mutex
}

func (o *output) write(line map[string]any) {
	data, err := json.Marshal(line)
	if err != nil {
		data, _ = json.Marshal(map[string]any{"id": line["id"], "error": thrown(err)})
	}
	o.mutex.Lock()
	defer o.mutex.Unlock()
	_, _ = os.Stdout.Write(append(data, '\n'))
}

func main() {
	socket := flag.String("socket", "coder", "the WebSocket library: coder or gorilla")
	plain := flag.Bool("serve", false, "be a plain server for the benchmarks")
	flag.Parse()
	kind, ok := sockets[*socket]
	if !ok {
		fmt.Fprintf(os.Stderr, "no WebSocket library %q\n", *socket)
		os.Exit(2)
	}
	if *plain {
		if err := serve(kind); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	out := &output{}
	agent := newAgent(kind)
	out.write(map[string]any{"ready": map[string]any{
		"library": *socket, "version": version(), "go": runtime.Version(), "can": can,
	}})
	lines := bufio.NewReader(os.Stdin)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return
		}
		// Commands begin in order. Those that wait for something end in whatever order they like.
		var command command
		if err := json.Unmarshal(line, &command); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return
		}
		if command.Command == "exit" {
			out.write(map[string]any{"id": command.ID, "ok": nil})
			return
		}
		go func() {
			value, err := agent.obey(&command)
			if err != nil {
				out.write(map[string]any{"id": command.ID, "error": thrown(err)})
			} else {
				out.write(map[string]any{"id": command.ID, "ok": value})
			}
		}()
	}
}

// version is that of the library in this program, as go.mod names it.
func version() string {
	info, _ := debug.ReadBuildInfo()
	for _, module := range info.Deps {
		if module.Path == library {
			return strings.TrimPrefix(module.Version, "v")
		}
	}
	return "unknown"
}
