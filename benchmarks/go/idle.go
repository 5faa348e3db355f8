package main

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// dial opens one connection, up to the answer to its opening message, if it has one.
func dial(o options, request []byte, secure *tls.Config) (net.Conn, *bufio.Reader, error) {
	tcp, err := net.DialTimeout("tcp", "127.0.0.1:"+o["port"], 3*time.Minute)
	if err != nil {
		return nil, nil, err
	}
	_ = tcp.(*net.TCPConn).SetLinger(0) // what ends is reset, as by a network that fails
	connection := tcp
	if secure != nil {
		connection = tls.Client(tcp, secure)
	}
	_ = connection.SetDeadline(time.Now().Add(3 * time.Minute))
	if _, err := connection.Write(request); err != nil {
		return nil, nil, err
	}
	reader := bufio.NewReaderSize(connection, 512)
	line, err := reader.ReadString('\n')
	if err == nil && !strings.HasPrefix(line, "HTTP/1.1 101 ") {
		err = fmt.Errorf("the server refused the upgrade: %s", line)
	}
	for err == nil && line != "\r\n" {
		line, err = reader.ReadString('\n')
	}
	if opening := o["opening"]; err == nil && opening != "" {
		if _, err = connection.Write(masked(0x81, []byte(opening))); err == nil {
			_, _, err = readFrame(reader)
		}
	}
	_ = connection.SetDeadline(time.Time{})
	return connection, reader, err
}

// masked is a frame of less than 64 KiB, masked with zeros.
func masked(first byte, payload []byte) []byte {
	frame := []byte{first, 0x80 | byte(len(payload))}
	if len(payload) > 125 {
		frame = []byte{first, 0x80 | 126, byte(len(payload) >> 8), byte(len(payload))}
	}
	return append(append(frame, 0, 0, 0, 0), payload...)
}

func readFrame(reader *bufio.Reader) (byte, []byte, error) {
	head := make([]byte, 2)
	if _, err := io.ReadFull(reader, head); err != nil {
		return 0, nil, err
	}
	size := int(head[1])
	if size == 126 {
		long := make([]byte, 2)
		if _, err := io.ReadFull(reader, long); err != nil {
			return 0, nil, err
		}
		size = int(long[0])<<8 | int(long[1])
	}
	payload := make([]byte, size)
	_, err := io.ReadFull(reader, payload)
	return head[0], payload, err
}

// pongs are the answers to the pings of Centrifugo and of Engine.IO, which are texts.
var pongs = map[string]string{"{}": "{}", "2": "3"}

// answerPings reads until this side drops the connection.
func answerPings(connection net.Conn, reader *bufio.Reader, dropped *atomic.Bool) {
	for {
		first, payload, err := readFrame(reader)
		if dropped.Load() {
			return
		}
		if err != nil || first == 0x88 {
			fail("a connection has ended: %v %q", err, payload)
		}
		if first == 0x89 {
			_, _ = connection.Write(masked(0x8a, payload))
		} else if pong, found := pongs[string(payload)]; found {
			_, _ = connection.Write(masked(0x81, []byte(pong)))
		}
	}
}

// loadIdle opens so many connections, `at_once` at a time, each time that its stdin says "open", prints how many seconds that took,
// and drops all of them when it says "drop".
func loadIdle(o options) {
	var secure *tls.Config
	if o["tls"] == "1" {
		secure = &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13}
	}
	request := requestOf(o)
	var connections []net.Conn
	dropped := &atomic.Bool{}
	room := make(chan struct{}, o.number("at_once"))
	commands := bufio.NewScanner(os.Stdin)
	for commands.Scan() {
		if commands.Text() == "drop" {
			dropped.Store(true)
			for _, connection := range connections {
				_ = connection.Close()
			}
			connections, dropped = nil, &atomic.Bool{}
			fmt.Println("dropped")
			continue
		}
		began := time.Now()
		var mutex sync.Mutex
		var dialing sync.WaitGroup
		for range o.number("connections") {
			dialing.Add(1)
			go func() {
				room <- struct{}{}
				connection, reader, err := dial(o, request, secure)
				<-room
				if err != nil {
					fail("%v", err)
				}
				mutex.Lock()
				connections = append(connections, connection)
				mutex.Unlock()
				dialing.Done()
				answerPings(connection, reader, dropped)
			}()
		}
		dialing.Wait()
		fmt.Println(time.Since(began).Seconds())
	}
}
