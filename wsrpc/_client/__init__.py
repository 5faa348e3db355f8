"""The client: dials a server, and dials again after a drop.

In come what users say (`connect`, `bind`, `close`), transports that were dialed, and the end of each connection. Out go
links for the client's peer, and the news of a connection to those who wait for one.
"""
