"""Received messages that wait to be read.

Decoded messages come in, from the channels of a peer: each reader has an inbox for its messages. Items and events go
out, one by one, to the `Stream` that a user holds. Nothing here sends. An inbox asks its channel to send answers,
credit, ``start`` and ``stop``.
"""
