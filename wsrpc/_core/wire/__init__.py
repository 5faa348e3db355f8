"""Messages and their encoding: codecs, rejections, control messages, the Go profile.

Payloads go in and messages come out, or the reverse. Nothing here has the state of a connection.
"""
