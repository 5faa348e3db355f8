"""Code generation: TypeScript declarations and Python modules from a description.

The input is a checked `Description`, and the output is source text. Only the public tools `wsrpc.codegen.typescript`,
`wsrpc.codegen.python_client` and ``python -m wsrpc`` use this package. No connection uses it.
"""
