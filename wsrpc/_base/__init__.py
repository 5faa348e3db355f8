"""Foundations of every other package: names and option types, errors for misuse, logging, the scheduler, close codes.

Nothing here knows about connections. What goes in are values and options; what comes out are checked values, errors and
log lines.
"""
