// The documented face of ws-server-wrapper-go, played; see wrapper.go.
module github.com/bminer/ws-server-wrapper-go

go 1.23

require (
	github.com/coder/websocket v1.8.15
	github.com/gorilla/websocket v1.5.3
)
