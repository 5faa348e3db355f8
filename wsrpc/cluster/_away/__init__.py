"""Calls to peers that may be away: they wait in the store, in the order of one list for each address.

In: calls of any process. Out: each is handed over by the process that has the peer, until it has ended.
"""
