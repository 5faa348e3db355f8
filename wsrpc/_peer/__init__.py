"""The symmetric core: one end of a connection, whichever side dialed.

Messages come in from a transport, and from users through `Peer`. Handlers start, futures are settled, and messages go
out through the sending half. `PeerCore` outlives connections, `Session` is one conversation on them.
"""
