"""The command ``wsrpc``, which is also ``python -m wsrpc``."""

from __future__ import annotations

import sys

try:
    from ._command.program import main
except ModuleNotFoundError as exc:
    if exc.name != "click":
        raise
    sys.stderr.write("wsrpc: the command needs the extra cli: pip install 'python-wsrpc[cli]'\n")
    sys.exit(2)

from ._command.running import leave

__all__ = ["run"]


def run() -> None:
    """Run the command that the process was started for, and end the process."""
    leave(main(sys.argv[1:]))


if __name__ == "__main__":
    run()
