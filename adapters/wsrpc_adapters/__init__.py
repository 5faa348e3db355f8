"""Adapters that turn other libraries' WebSocket connections into wsrpc transports.

There is one module for each third-party library. Adapters use only the public names of ``wsrpc``, so an adapter of your
own can do whatever these do. Importing this package imports none of the libraries.
"""
