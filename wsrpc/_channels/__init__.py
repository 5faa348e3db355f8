"""Channels within a connection: the table of anonymous channels, producers, and the readers of events."""
