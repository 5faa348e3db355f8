"""Nodes: the processes of a cluster, what they know of each other, and the connections between them.

In: messages of the engine. Out: a directory of all nodes, and sessions with each of them.
"""
