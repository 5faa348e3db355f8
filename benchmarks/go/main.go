// Command load is what the load generator in C cannot be: a gRPC client, and a client that opens connections with and
// without TLS.
//
//	load grpc NAME=VALUE...       NAME: port pid method size connections pending warm seconds
//	load accepts NAME=VALUE...    NAME: port pid path tls at_once warm seconds
//	load idle NAME=VALUE...       NAME: port path tls connections at_once opening; see loadIdle
//
// The first two print one line of JSON in the shape of benchmarks.measure.Sample.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

type options map[string]string

func (o options) number(name string) int {
	value, err := strconv.Atoi(o[name])
	if err != nil {
		fail("%s must be a number: %q", name, o[name])
	}
	return value
}

func (o options) seconds(name string) time.Duration {
	value, err := strconv.ParseFloat(o[name], 64)
	if err != nil {
		fail("%s must be a number of seconds: %q", name, o[name])
	}
	return time.Duration(value * float64(time.Second))
}

func fail(format string, arguments ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", arguments...)
	os.Exit(1)
}

// counters are what all workers add to.
type counters struct {
	answers, wrong atomic.Int64
	stopping       atomic.Bool
}

type sample struct {
	Answers    int64   `json:"answers"`
	Seconds    float64 `json:"seconds"`
	Wrong      int64   `json:"wrong"`
	Unanswered int64   `json:"unanswered"`
	ServerCPU  float64 `json:"server_cpu"`
}

// measure lets the workers run that were started, and counts what they do after the first moments.
func measure(o options, counted *counters) sample {
	time.Sleep(o.seconds("warm"))
	answers, server, began := counted.answers.Load(), cpuOf(o.number("pid")), time.Now()
	time.Sleep(o.seconds("seconds"))
	took := time.Since(began).Seconds()
	result := sample{
		Answers:   counted.answers.Load() - answers,
		Seconds:   took,
		ServerCPU: (cpuOf(o.number("pid")) - server) / took,
	}
	counted.stopping.Store(true)
	return result
}

func print(result sample, counted *counters) {
	result.Wrong = counted.wrong.Load()
	if err := json.NewEncoder(os.Stdout).Encode(result); err != nil {
		fail("%v", err)
	}
}

// cpuOf is user and system time of a process so far, in seconds.
func cpuOf(pid int) float64 {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		fail("the server is gone: %v", err)
	}
	// The second field, the name, may contain anything; what follows its closing parenthesis does not.
	fields := strings.Fields(string(data)[strings.LastIndex(string(data), ")")+1:])
	user, _ := strconv.ParseFloat(fields[11], 64)
	system, _ := strconv.ParseFloat(fields[12], 64)
	return (user + system) / 100
}

func main() {
	// It has a core to itself for a second or so: collecting rarely is what one would set for that.
	debug.SetGCPercent(400)
	o := options{}
	for _, argument := range os.Args[2:] {
		name, value, _ := strings.Cut(argument, "=")
		o[name] = value
	}
	switch os.Args[1] {
	case "grpc":
		loadGRPC(o)
	case "accepts":
		loadAccepts(o)
	case "idle":
		loadIdle(o)
	default:
		fail("no such command: %s", os.Args[1])
	}
}
