"""Sending: from a call to the transport.

Events, requests and raw messages come in from `_core.api`, answers from the peer. They go out through the
`SessionWriter` of the present session: at once, in turn if it is full, or on the next connection if there is none.
"""
