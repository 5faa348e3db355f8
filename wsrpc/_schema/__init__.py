"""Schemas of handlers: JSON Schema for the parameters and results of registered handlers.

The input is handlers and types, and the output is a `Description`. The public tools use it, and `codegen` generates
source text from it. No message needs this package, except for a request for the description that a server offers.
"""
