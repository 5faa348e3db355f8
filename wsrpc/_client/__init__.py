"""The client: dials a server, and dials again after a drop.

The user's calls (connect, bind, close) and the ends of connections come in, and move the client through its state
table. Transports go out, to its one `Peer`.
"""
