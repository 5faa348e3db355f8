"""The command ``wsrpc``: options and arguments go in; lines on stdout, sentences on stderr and an exit code come out."""
