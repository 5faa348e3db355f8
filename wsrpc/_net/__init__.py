"""The network: dials URLs (`dialing`), listens on ports (`serving`), and takes over connections that another HTTP
library has opened (`upgrade`).

The results are objects with the contract of `wsrpc.transport`, which a client or a server binds to a peer. Nothing here
knows of peers or of the ws-wrapper protocol. `wsrpc.adapting` exports the parts that adapters for other libraries need.
"""
