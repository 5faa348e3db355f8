"""Foundations of every other package: names and option types, errors for misuse, logging, the scheduler, close codes.

Nothing here knows about connections. What goes in are values and options; what comes out are checked values, errors and
log lines.
"""

from .dependencies import check_dependencies

# Here, because everything that uses a library imports this package, and `import wsrpc` alone does not: reading metadata
# takes 2 ms, and 25 ms where nothing else has loaded `importlib.metadata`.
check_dependencies()
