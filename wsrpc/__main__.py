"""The command ``wsrpc``, which is also ``python -m wsrpc``."""

from __future__ import annotations

import sys

from ._command.program import main
from ._command.running import leave

__all__ = ["run"]


def run() -> None:
    """Run the command that the process was started for, and end the process."""
    leave(main(sys.argv[1:]))


if __name__ == "__main__":
    run()
