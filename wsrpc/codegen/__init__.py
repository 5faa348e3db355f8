"""Code generation: TypeScript declarations and Python modules from a description.

A checked `Description` comes in, source text goes out. Only the public tools `wsrpc.codegen.typescript`,
`wsrpc.codegen.python_client` and ``python -m wsrpc`` use it; no connection does.
"""
