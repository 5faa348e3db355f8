"""The command ``wsrpc``: takes a command line; prints values to stdout, errors to stderr; returns an exit code."""
