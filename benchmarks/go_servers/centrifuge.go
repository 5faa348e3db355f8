package main

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"

	"github.com/centrifugal/centrifuge"
)

const channel = "ticks"

// centrifugal is the library that Centrifugo is made of. Centrifugo itself passes calls on to a backend; here, a function
// of the process answers them, which is faster. Each connection subscribes to the channel of the broadcasts.
func centrifugal(options []string) http.Handler {
	node, err := centrifuge.New(centrifuge.Config{})
	if err != nil {
		fail("%v", err)
	}
	for _, option := range options {
		if port, found := strings.CutPrefix(option, "--redis="); found {
			useRedis(node, "127.0.0.1:"+port)
		}
	}
	node.OnConnecting(func(context.Context, centrifuge.ConnectEvent) (centrifuge.ConnectReply, error) {
		return centrifuge.ConnectReply{
			Credentials:       &centrifuge.Credentials{UserID: "1"},
			Subscriptions:     map[string]centrifuge.SubscribeOptions{channel: {}},
			ReplyWithoutQueue: true, // each answer is written at once
		}, nil
	})
	node.OnConnect(func(client *centrifuge.Client) {
		client.OnRPC(func(event centrifuge.RPCEvent, reply centrifuge.RPCCallback) {
			result, err := called(node, event)
			reply(centrifuge.RPCReply{Data: result}, err)
		})
	})
	if err := node.Run(); err != nil {
		fail("%v", err)
	}
	return centrifuge.NewWebsocketHandler(node, centrifuge.WebsocketConfig{
		MessageSizeLimit: largest,
		CheckOrigin:      func(*http.Request) bool { return true },
	})
}

func called(node *centrifuge.Node, event centrifuge.RPCEvent) ([]byte, error) {
	switch event.Method {
	case "echo":
		var text [1]string
		if err := json.Unmarshal(event.Data, &text); err != nil {
			return nil, err
		}
		return json.Marshal(text[0])
	case "broadcast":
		message, err := json.Marshal([]string{"tick", tick})
		if err != nil {
			return nil, err
		}
		_, err = node.Publish(channel, message)
		return []byte("1"), err
	default:
		var pair numbers
		if err := json.Unmarshal(event.Data, &pair); err != nil {
			return nil, err
		}
		return json.Marshal(pair[0] + pair[1])
	}
}

func useRedis(node *centrifuge.Node, address string) {
	shard, err := centrifuge.NewRedisShard(node, centrifuge.RedisShardConfig{Address: address})
	if err != nil {
		fail("%v", err)
	}
	broker, err := centrifuge.NewRedisBroker(node, centrifuge.RedisBrokerConfig{Shards: []*centrifuge.RedisShard{shard}})
	if err != nil {
		fail("%v", err)
	}
	node.SetBroker(broker)
}
