"""Several processes as one: calls and streams between them, emits to their rooms, and what a node must know."""
