"""Opens the connections of clients: URLs, proxies, sockets and the opening handshake."""
