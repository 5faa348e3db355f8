"""Schemas of handlers: JSON Schema and TypeScript for the parameters and results of what is registered.

Types go in, schemas and texts come out. The public tools `wsrpc.schema`, `wsrpc.typescript` and ``python -m wsrpc`` use
it. No message needs it, except for a request for a description that a server offers.
"""
