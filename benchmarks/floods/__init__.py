"""A server that is flooded in every way, and a client that behaves well beside that."""
