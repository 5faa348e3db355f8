"""Connections that a server hands to the application without the protocol."""
