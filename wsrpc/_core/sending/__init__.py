"""Sending: from a call to the transport.

In: events and requests from `_core.api`, and answers from `_core.peer`. Out: encoded messages for the
`SessionWriter` of the present session, which are sent at once, when there is room, or on the next connection.
"""
