"""A broadcast to a thousand connections, of which one never reads."""
