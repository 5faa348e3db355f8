"""What many connections cost on which nothing is said but pings: wsrpc beside bare `websockets`."""
