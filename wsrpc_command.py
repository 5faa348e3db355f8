"""Starts the command ``wsrpc``.

This module stands beside the package, because importing any module of the package first imports the whole library.
That takes about 0.1 s, in which Python would answer Ctrl-C with a traceback. For ``python -m wsrpc``, which imports the
package first, the package calls `end_on_interrupt` before its other imports.
"""

from __future__ import annotations

import signal

__all__ = ["end_on_interrupt", "run"]


def end_on_interrupt() -> None:
    """Let Ctrl-C end the process at once, without a traceback, until the command runs."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # and not ignored, as under nohup
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def run() -> None:
    """Run the command that the process was started for, and end the process."""
    end_on_interrupt()
    from wsrpc.__main__ import run as run_command

    run_command()
