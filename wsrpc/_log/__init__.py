"""Logs: what is kept for calls with a key, for rooms with ``keep=``, and for calls to peers that are away.

In come entries of writers, and questions of readers. Out come the entries, in order, from any position. The module
`wsrpc.store` describes the contract with a store. Nothing here knows what the entries are.
"""
