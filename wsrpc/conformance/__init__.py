"""Conformance kit for the protocol of ws-wrapper: the command ``python -m wsrpc.conformance``.

It plays rows of messages to a server or a client in any language, and says which rows hold. It has no peer of wsrpc in
it, but sends and reads the messages themselves, so it can also test wsrpc.
"""

__all__: list[str] = []
