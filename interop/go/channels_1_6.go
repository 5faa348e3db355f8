//go:build wrapper16

package main

import (
	"context"

	wrapper "github.com/bminer/ws-server-wrapper-go"
)

var can = []string{"drops", "cancels"}

// Version 1.6 has no anonymous channels.
type channelTable struct{}

func (p *peers) adoptAnswer(_ *peer, value any) any { return value }
func (p *peers) madeFor(context.Context, bool)      {}
func (p *peers) openChannels(int) int               { return 0 }
func (p *peers) attachStreams(registering)          {}
func (a *agent) addChannelCommands()                {}
func label(msg wrapper.Message) (any, bool) {
	if msg.Channel == "" {
		return nil, true
	}
	return msg.Channel, true
}

func (a *agent) target(c *command) (*peer, speaker, error) {
	peer, err := a.peers.get(c.Peer)
	if err != nil {
		return nil, nil, err
	}
	if name := nameOf(c.Channel); name != "" {
		return peer, peer.client.Of(name), nil
	}
	return peer, peer.client, nil
}
