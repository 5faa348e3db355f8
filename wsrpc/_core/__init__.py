"""The core: the symmetric inside of a peer, the same on the side that dials and on the side that accepts.

In: messages of one transport after the other, and the calls of the objects that users hold. Out: messages, results, and
calls of handlers. Nothing here dials, listens or knows of a server's rooms.
"""
