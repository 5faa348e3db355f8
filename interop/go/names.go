package main

import "encoding/json"

// nameOf is the name of a channel that a command gives; "" is the main one.
func nameOf(channel json.RawMessage) string {
	var name string
	if len(channel) > 0 {
		_ = json.Unmarshal(channel, &name)
	}
	return name
}
