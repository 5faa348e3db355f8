"""The client: dials a server, and dials again after a drop."""
