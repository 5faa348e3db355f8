"""Connections that HTTP requests carry, for networks that WebSocket does not pass."""
