"""A thousand clients that are cut at once: when they dial again, by the clock on the wall."""
