"""The entrance of a server: which handshakes are accepted.

In: a `Handshake` from a listener or an adapter. Out: the same, filled in, or `HandshakeRejected`.
"""
