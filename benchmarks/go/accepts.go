package main

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

const patience = 10 * time.Second

// closing is a Close frame with code 1000, masked with zeros.
var closing = []byte{0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8}

// openAndClose is one connection: TCP, TLS where it is asked for, the WebSocket handshake, the closing handshake.
func openAndClose(o options, request []byte, secure *tls.Config) error {
	connection, err := net.DialTimeout("tcp", "127.0.0.1:"+o["port"], patience)
	if err != nil {
		return err
	}
	defer connection.Close()
	_ = connection.SetDeadline(time.Now().Add(patience))
	if secure != nil {
		connection = tls.Client(connection, secure)
	}
	if _, err := connection.Write(request); err != nil {
		return err
	}
	reader := bufio.NewReader(connection)
	line, err := reader.ReadString('\n')
	if err != nil {
		return err
	}
	if !strings.HasPrefix(line, "HTTP/1.1 101 ") {
		return fmt.Errorf("the server refused the upgrade: %s", line)
	}
	if _, err := connection.Write(closing); err != nil {
		return err
	}
	// What comes before its own Close frame, that, and the end.
	_, err = io.Copy(io.Discard, reader)
	if err == io.ErrUnexpectedEOF { // some servers end TCP without ending TLS first
		err = nil
	}
	return err
}

func loadAccepts(o options) {
	var secure *tls.Config
	if o["tls"] == "1" {
		// Sessions are not kept: each handshake is a whole one. The certificate is not what is measured.
		secure = &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13}
	}
	request := []byte(fmt.Sprintf("GET %s HTTP/1.1\r\nHost: 127.0.0.1:%s\r\nUpgrade: websocket\r\n"+
		"Connection: Upgrade\r\nSec-WebSocket-Key: AAECAwQFBgcICQoLDA0ODw==\r\nSec-WebSocket-Version: 13\r\n\r\n",
		o["path"], o["port"]))
	counted := &counters{}
	var working sync.WaitGroup
	for range o.number("at_once") {
		working.Add(1)
		go func() {
			defer working.Done()
			for !counted.stopping.Load() {
				if err := openAndClose(o, request, secure); err != nil {
					fail("%v", err)
				}
				counted.answers.Add(1)
			}
		}()
	}
	result := measure(o, counted)
	working.Wait()
	print(result, counted)
}

// serveAccepts says yes to every handshake, and answers whatever comes then with a Close frame and the end.
func serveAccepts(secure bool) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fail("%v", err)
	}
	port := listener.Addr().(*net.TCPAddr).Port
	if secure {
		certificate, err := tls.LoadX509KeyPair("tests/certificates/server.pem", "tests/certificates/server.key")
		if err != nil {
			fail("%v", err)
		}
		listener = tls.NewListener(listener, &tls.Config{Certificates: []tls.Certificate{certificate}})
	}
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			go acceptOne(connection)
		}
	}()
	untilStdinEnds(port)
}

func acceptOne(connection net.Conn) {
	defer connection.Close()
	_ = connection.SetDeadline(time.Now().Add(patience))
	reader := bufio.NewReader(connection)
	if _, err := http.ReadRequest(reader); err != nil {
		return
	}
	// Our client does not check the accept key.
	_, _ = io.WriteString(connection, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"+
		"Connection: Upgrade\r\n\r\n")
	frame := make([]byte, len(closing))
	if _, err := io.ReadFull(reader, frame); err == nil {
		_, _ = connection.Write([]byte{0x88, 0x02, 0x03, 0xe8})
	}
}
