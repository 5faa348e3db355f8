"""Adapters that turn other WebSocket libraries' connections into wsrpc transports.

One module for each third-party library. An adapter uses only the public names of ``wsrpc``, so what is
possible here is possible in anyone's own adapter. Importing this package imports none of those libraries.
"""
