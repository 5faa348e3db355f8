"""Accepts the connections of servers: ports, the checks of a handshake, and health checks."""
