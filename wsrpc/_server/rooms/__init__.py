"""Rooms: groups of a server's peers, and the logs of their events.

In: members, and events for them, of this process and of others. Out: each event to each member, live, or later from the
log.
"""
