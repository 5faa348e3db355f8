"""Messages and their encoding: codecs, rejections, control messages, the Go profile.

This package encodes messages to payloads, and decodes payloads. Nothing in it has the state of a connection.
"""
