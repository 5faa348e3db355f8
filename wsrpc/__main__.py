"""The command ``wsrpc``, which is also ``python -m wsrpc``."""

from __future__ import annotations

import signal
import sys

__all__ = ["run"]


def run() -> None:
    """Run the command that the process was started for, and end the process."""
    # The imports take 0.1 s. Meanwhile, Ctrl-C would print a traceback.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # and not ignored, as under nohup
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        from ._command.main_command import main
    except ModuleNotFoundError as exc:
        if exc.name != "click":
            raise
        sys.stderr.write("wsrpc: the command needs the extra cli: pip install 'python-wsrpc[cli]'\n")
        sys.exit(2)
    from ._command.running import exit_process

    exit_process(main(sys.argv[1:]))


if __name__ == "__main__":
    run()
