"""Services: one object of the application for each connection.

In: peers that connect and leave. Out: calls of the object's methods.
"""
