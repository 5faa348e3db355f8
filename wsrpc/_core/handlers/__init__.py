"""Handlers: from a user's function to one compiled call.

Functions go in, with their options. The registry gives back a compiled `Handler` for each event, and the peer calls it
with an `Invocation` and the arguments as they arrived. Middleware, contexts and lifecycle handlers belong here, too.
"""
