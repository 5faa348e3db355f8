"""Handlers: from a user's function to one compiled call.

Functions are registered with their options. The registry returns a compiled `Handler` for each event, and the peer
calls it with an `Invocation` and the arguments as they arrived. Middleware and lifecycle handlers are here, too.
"""
