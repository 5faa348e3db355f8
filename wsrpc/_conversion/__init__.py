"""Types: what an annotation says, who enforces it, and the compiled function that converts a value to it."""
