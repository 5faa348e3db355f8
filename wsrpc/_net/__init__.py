"""The network: dialing, listening, and which handshakes a server accepts.

In come URLs (`dial`) and TCP ports (`listener`), or connections that another HTTP library has opened (`upgrade`). Out
come objects that fulfil the contract of `wsrpc.transport`, for a client or a server to bind to a peer. Nothing here
knows of peers or of the ws-wrapper protocol. `wsrpc.adapting` exports the parts that adapters for other libraries need.
"""
