"""Connections that a server hands to the application without the protocol.

In: open transports, and the function that `Server.serve_raw` registered. Out: `RawConnection`, which receives and sends
WebSocket messages, one for each transport and each in a task of its own.
"""
