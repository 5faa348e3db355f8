"""Channels: the anonymous channels of a session (`ChannelTable`), and the main and named channels (`NamedChannels`).

Messages on channels come in from the peer, and requests that open channels from the public calls. Each channel passes
its messages to readers and handlers. Producers send items. Items, credit, answers and aborts go out through the
`SessionWriter`.
"""
