"""Completion in shells: the command ``completion``, which prints a script, and the words that the scripts request."""

from __future__ import annotations

import asyncio
import os
import shlex
from collections.abc import Iterable
from typing import Any

import click
from click.shell_completion import ShellComplete, add_completion_class, shell_complete, split_arg_string

from ..errors import WsrpcError
from .command_connection import client_of
from .command_errors import Failure
from .command_options import COMPLETE, Options
from .description_request import checked, describes

COMPLETION_TIMEOUT = 1.5
"""Maximum time of a request to a server, while the user waits after pressing Tab."""


@add_completion_class
class Bash(ShellComplete):
    """Completion in bash, where a colon ends a word. URLs contain colons, so this class splits the line itself."""

    name = "bash"
    source_template = """\
# wsrpc completion bash: put  source <(wsrpc completion bash)  into ~/.bashrc
_wsrpc() {
    local IFS=$'\\n'
    COMPREPLY=($(COMP_LINE="${COMP_LINE:0:COMP_POINT}" %(complete_var)s=bash_complete wsrpc 2>/dev/null))
}
complete -o default -F _wsrpc wsrpc
"""

    def get_completion_args(self) -> tuple[list[str], str]:
        *args, last = split_arg_string(os.environ["COMP_LINE"] + "|")
        return args[1:], last.removesuffix("|")

    def complete(self) -> str:
        """Return the words. If there are no words, bash completes the names of files."""
        args, incomplete = self.get_completion_args()
        complete = incomplete.rfind(":") + 1  # bash keeps what is before the last colon
        words = self.get_completions(args, incomplete)
        return "\n".join(word.value[complete:] for word in words if word.type == "plain")


@click.command(epilog="\b\nexamples:\n  source <(wsrpc completion bash)\n  wsrpc completion fish | source")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]), metavar="SHELL")
@click.pass_context
def completion(ctx: click.Context, shell: str) -> int:
    """Print a script that lets a shell complete commands.

    SHELL is bash, zsh or fish. The shell then completes commands, options, and the names of events and channels, if the
    server of the command's URL offers its description.
    """
    return complete(ctx.find_root().command, f"{shell}_source")


def complete(program: click.Command, instruction: str) -> int:
    """Print a script, or the words that a script requests, and return the exit code."""
    return shell_complete(program, {"obj": _offered}, "wsrpc", COMPLETE, instruction)


def _offered(options: Options, what: str) -> Iterable[str]:
    """Return the channels of the server, or the events of the channels that the command line names.

    Args:
        options: the options in the command line so far.
        what: ``channel`` for channels. Any other value is for events.
    """
    try:
        found = checked(asyncio.run(_describes(options)))
    except (Failure, WsrpcError, OSError, TypeError, ValueError):  # an error would garble the line that is being typed
        return ()
    events = found.emits if "events" in vars(options) else found.events
    if what == "channel":
        names = {event.channel for event in events if event.channel is not None}
    else:
        channel: Any = options.channel
        several: Any = channel if channel.__class__ is tuple else (channel,)
        names = {event.event for event in events if event.channel in (several or (None,))}  # None: the main channel
    # The names become part of a command, so names that a shell would interpret are not offered.
    return sorted(name for name in names if shlex.quote(name) == name)


async def _describes(options: Options) -> Any:
    async with asyncio.timeout(COMPLETION_TIMEOUT), client_of(options, None) as client:
        return await describes(client, options.url)
