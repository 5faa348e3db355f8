"""Starts the command ``wsrpc``.

This module stands beside the package, because importing any module of the package first imports the whole library.
That takes about 0.1 s, in which Python would answer Ctrl-C with a traceback.
"""

from __future__ import annotations

import signal

__all__ = ["run"]


def run() -> None:
    """Run the command that the process was started for, and end the process."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # and not ignored, as under nohup
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # ends the process at once; the command replaces it when it runs
    from wsrpc.__main__ import run as run_command

    run_command()
