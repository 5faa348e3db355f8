"""The symmetric core: one end of a connection, whichever side dialed."""
