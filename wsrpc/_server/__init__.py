"""The server: accepts connections, keeps its peers and rooms, broadcasts to them, and drains when it closes.

In: open transports with their handshakes, from listeners and adapters, and the application's handlers, services and
rooms. Out: one `Peer` for each connection (or a `RawConnection`), and broadcasts to many of them.
"""
