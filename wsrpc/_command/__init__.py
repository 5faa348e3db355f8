"""The command ``wsrpc``: a command line goes in; values on stdout, sentences on stderr and an exit code come out."""
