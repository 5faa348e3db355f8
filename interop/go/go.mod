// The Go peer of the interop tests. ../golang.py builds it, by default on ./played; WS_WRAPPER_GO has it built on the
// real library instead.
module wsrpc.example/interop

go 1.23

require (
	github.com/bminer/ws-server-wrapper-go v1.7.0
	github.com/coder/websocket v1.8.15
	github.com/gorilla/websocket v1.5.3
)

replace github.com/bminer/ws-server-wrapper-go => ./played
