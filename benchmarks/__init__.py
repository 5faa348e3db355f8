"""Benchmarks: the same load on wsrpc and on what it is compared with, side by side in one run.

    python -m benchmarks    the run: about 15 minutes, or 2 with --quick

Ratios come first, because rates say more about the machine than about the code. Linux only, and it needs two cores: one
for the server, one for the load.

What is measured, and on what, are two lists:

    workloads    each column of a table, each curve
    subjects     each system: how its server is started, what is spoken with it, what must be installed

How it is measured:

    runner       one workload on one subject after another, in rounds; starts the servers
    protocols    a call in the words of each system
    generator    the load in C: WebSocket connections, broadcasts, idle connections; the smallest server, its ceiling
    go           the load in Go: gRPC, and opening connections, with and without TLS
    servers      the servers in Python, one module for each library
    clients      the clients in Python, likewise
    js           the servers and clients in JavaScript; the server in Go is that of interop/go

What comes of it:

    measure      one sample, ratios
    results      the document of a run
    report       tables for the terminal and for the pages of the docs, and their plots

Beside the rounds:

    latency      requests at fixed times, whatever becomes of earlier ones; a table of the run
    cuts         sessions that are cut, beside Socket.IO's; a run of its own: --cuts
    page_clients the clients for pages, on Node, beside ws-wrapper and socket.io-client; a run of its own: --pages
    against      wsrpc beside wsrpc of another commit; a run of its own: --against COMMIT
"""
