"""Received messages that wait to be read, and the streams that users read them from.

Decoded messages come in, from the channels of a peer: a mailbox takes those of an anonymous channel, an inbox those of
one reader. Items and events go out, one by one, through `Stream`. Nothing here sends: what has to be sent, an answer or
credit for example, is asked of the channel.
"""
