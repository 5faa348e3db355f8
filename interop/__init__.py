"""Interop tests: wsrpc against other implementations of the ws-wrapper protocol, over real sockets."""
