"""Calls with a key: they run once, many read them, and a store keeps their results and items for a while.

In come calls of handlers that are registered with ``keep=``. Out come their results and items, from any position. The
core does not import this package.
"""
