"""What operators see of a running server and do with it, and the description that it offers.

In: requests of clients on the channel ``wsrpc``. Out: rows of peers and statistics, and pages of the description.
"""
