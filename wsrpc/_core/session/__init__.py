"""Sessions: transports that survive drops.

In: connections, one after another, and messages to send. Out: messages, and one end. Nothing above counts messages or
knows how many connections there were.
"""
