"""Several server processes as one: rooms and calls across them, over an engine.

In: what the application calls, and what the engine delivers. Out: messages to other nodes, calls to local peers.
"""
