"""Anonymous channels, and what is read and produced on any channel.

Requests whose answer is a channel come in from the public calls, messages on channels from the peer. The table of a
session finds a channel by its id, and each channel passes its messages to readers and handlers. Items, credit, answers
and aborts go out through the peer's sending half.
"""
