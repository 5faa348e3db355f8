package main

import (
	"bytes"
	"context"
	"fmt"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
)

// raw is a codec for messages that are encoded already, so that the client spends nothing on that.
type raw struct{}

func (raw) Marshal(value any) ([]byte, error)      { return *value.(*[]byte), nil }
func (raw) Unmarshal(data []byte, value any) error { *value.(*[]byte) = bytes.Clone(data); return nil }
func (raw) Name() string                           { return "proto" }

const service = "/bench.Bench/"

// message is a protobuf message with one field of bytes or text.
func message(size int) []byte {
	head := []byte{0x0a}
	for n := size; ; n >>= 7 {
		if n < 0x80 {
			head = append(head, byte(n))
			break
		}
		head = append(head, byte(n&0x7f|0x80))
	}
	return append(head, bytes.Repeat([]byte("x"), size)...)
}

// call is a method with its request and the answer that must come.
func call(o options) (string, []byte, []byte) {
	if o["method"] == "Add" {
		return service + "Add", []byte{0x08, 1, 0x10, 2}, []byte{0x08, 3}
	}
	content := message(o.number("size"))
	return service + o["method"], content, content
}

func loadGRPC(o options) {
	encoding.RegisterCodec(raw{})
	method, request, expected := call(o)
	counted := &counters{}
	var working sync.WaitGroup
	connections := make([]*grpc.ClientConn, o.number("connections"))
	for k := range connections {
		connection, err := grpc.NewClient(
			fmt.Sprintf("127.0.0.1:%s", o["port"]),
			grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(4<<20), grpc.CallContentSubtype("proto")),
		)
		if err != nil {
			fail("%v", err)
		}
		connections[k] = connection
		var first []byte
		if err := connection.Invoke(context.Background(), method, &request, &first); err != nil {
			fail("%v", err)
		}
	}
	for _, connection := range connections {
		for range o.number("pending") {
			working.Add(1)
			go func() {
				defer working.Done()
				for !counted.stopping.Load() {
					var answer []byte
					err := connection.Invoke(context.Background(), method, &request, &answer)
					if err != nil {
						fail("%v", err)
					}
					if !bytes.Equal(answer, expected) {
						counted.wrong.Add(1)
					}
					counted.answers.Add(1)
				}
			}()
		}
	}
	result := measure(o, counted)
	working.Wait()
	for _, connection := range connections {
		_ = connection.Close()
	}
	print(result, counted)
}
