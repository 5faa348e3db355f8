"""Benchmarks: the same load on wsrpc and on what it is compared with, side by side in one run.

``python -m benchmarks`` prints ratios first, because rates say more about the machine than about the code.
Linux only, and it needs two cores: one for the server, one for the load.
"""
