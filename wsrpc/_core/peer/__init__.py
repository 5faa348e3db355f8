"""The symmetric core: one end of a connection, whichever side dialed.

Messages come in from a transport, and from users through `Peer`. Handlers start, futures are settled, and messages go
out through the sending half. A `PeerSession` is the inside of one session. `PeerCore`
has what lasts from one session to the next.
"""
