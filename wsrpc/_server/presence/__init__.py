"""Presence: which users are in a room, in all processes.

In: members that enter and leave, here and at other nodes. Out: one entry for each user, and a report of each change.
"""
