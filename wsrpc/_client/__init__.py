"""The client: dials a server, and dials again after a drop.

The user's calls (connect, bind, close) and the ends of connections move the client through its state table. It gives
its connections to its one `Peer`.
"""
