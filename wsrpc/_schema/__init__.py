"""Schemas of handlers: JSON Schema for the parameters and results of what is registered.

Handlers and types come in, a `Description` goes out. The public tools use it, and `codegen` makes source of it. No
message needs it, except for a request for a description that a server offers.
"""
