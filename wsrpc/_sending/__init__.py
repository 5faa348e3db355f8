"""Sending: from a call to the transport.

Events, requests and raw messages come in from `_api`, answers from the peer. They go out on the `Link` of the
present connection: at once, in turn if it is full, or on the next connection if there is none.
"""
