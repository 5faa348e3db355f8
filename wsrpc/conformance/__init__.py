"""Conformance kit for the protocol of ws-wrapper: the command ``python -m wsrpc.conformance``.

It plays rows of messages to a server or a client in any language, and reports which rows hold. It sends and reads the
messages without a peer of wsrpc, so it can also test wsrpc.
"""

__all__: list[str] = []
