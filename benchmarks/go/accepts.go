package main

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
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

// requestOf is the opening handshake.
func requestOf(o options) []byte {
	return []byte(fmt.Sprintf("GET %s HTTP/1.1\r\nHost: 127.0.0.1:%s\r\nUpgrade: websocket\r\n"+
		"Connection: Upgrade\r\nSec-WebSocket-Key: AAECAwQFBgcICQoLDA0ODw==\r\nSec-WebSocket-Version: 13\r\n\r\n",
		o["path"], o["port"]))
}

func loadAccepts(o options) {
	var secure *tls.Config
	if o["tls"] == "1" {
		// Sessions are not kept: each handshake is a whole one. The certificate is not what is measured.
		secure = &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13}
	}
	request := requestOf(o)
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
