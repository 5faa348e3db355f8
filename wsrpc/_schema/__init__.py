"""Schemas of handlers: JSON Schema for the parameters and results of registered handlers.

The input is handlers and types, and the output is a `Description`. The public tools use it, and `codegen` generates
source text from it. Greetings have the fingerprint of the description, and a server can offer the description itself.
"""
