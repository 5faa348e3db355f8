"""A connection that three streams fill, and small requests beside them: wsrpc beside a bare ``websockets`` echo."""
