"""The server: accepts connections, keeps its peers and rooms, and drains when it closes."""
