"""Going on over another connection: what one session counts and keeps for that.

In: each message that is sent or received. Out: what has to be sent again on the next connection, and acknowledgements.
"""
