"""Schemas of handlers: JSON Schema and TypeScript for the parameters and results of what is registered.

Types go in, schemas and texts come out. Only the public tools `wsrpc.schema`, `wsrpc.typescript` and
``python -m wsrpc`` use it; no connection does.
"""
