"""The command ``wsrpc``: takes a command line, writes values to stdout and errors to stderr, and returns an exit code."""
