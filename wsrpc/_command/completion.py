"""Completion in shells: the scripts that ``wsrpc completion`` prints, and the words that they ask for."""

from __future__ import annotations

import asyncio
import shlex
from argparse import Action, Namespace
from collections.abc import Iterable
from typing import Any, Literal

from ..errors import WsrpcError
from .asking import checked, describes
from .connection import client_of
from .failures import Failure
from .options import Command, Parser
from .program import COMMANDS, command_of
from .running import show

__all__ = ["complete", "completion"]

SECONDS = 1.5
"""Time for asking a server, while the user waits after pressing Tab."""

SCRIPTS = {
    "bash": """\
# wsrpc completion bash: put  source <(wsrpc completion bash)  into ~/.bashrc
_wsrpc() {
    local IFS=$'\\n'
    COMPREPLY=($(wsrpc complete bash "${COMP_LINE:0:COMP_POINT}" 2>/dev/null))
}
complete -o default -F _wsrpc wsrpc
""",
    "zsh": """\
#compdef wsrpc
# wsrpc completion zsh: put  source <(wsrpc completion zsh)  into ~/.zshrc, after compinit
_wsrpc() {
    local -a found
    found=("${(@f)$(wsrpc complete zsh "$LBUFFER" 2>/dev/null)}")
    if [[ -n "$found" ]]; then compadd -a found; else _files; fi
}
compdef _wsrpc wsrpc
""",
    "fish": """\
# wsrpc completion fish: put  wsrpc completion fish | source  into ~/.config/fish/config.fish
complete -c wsrpc -a '(wsrpc complete fish (commandline -cp) 2>/dev/null)'
""",
}


def _parser() -> Parser:
    parser = Parser(
        "completion SHELL",
        "Print a script that lets a shell complete commands, options and the names of events.\n"
        "Names of events and channels come from the server of the command's URL, if that offers its description.",
        "examples:\n  source <(wsrpc completion bash)\n  wsrpc completion fish | source",
    )
    parser.add_argument("shell", metavar="SHELL", choices=tuple(SCRIPTS), help=f"one of {', '.join(SCRIPTS)}")
    return parser


def _completion(options: Namespace) -> int:
    show(SCRIPTS[options.shell])
    return 0


def _complete_parser() -> Parser:
    parser = Parser(
        "complete SHELL LINE", "Print the words that may continue a line, for the scripts of wsrpc completion."
    )
    parser.add_argument("shell", choices=tuple(SCRIPTS), help="the shell")
    parser.add_argument("line", help="the line up to the cursor")
    return parser


def _complete(options: Namespace) -> int:
    """Print the words that may continue a line. If there are none, shells complete file names."""
    line: str = options.line
    try:
        *before, last = shlex.split(f"{line}|")
    except ValueError:  # an open quote: a value is being written
        return 0
    word = last[:-1]
    # For bash, a colon ends a word.
    kept = word.rfind(":") + 1 if options.shell == "bash" else 0
    # The names of a server's events become part of a command, so none is offered that the shell would interpret.
    words = [each for each in _continuations(before[1:], word) if each.startswith(word) and shlex.quote(each) == each]
    show("".join(f"{each[kept:]}\n" for each in words))
    return 0


def _continuations(before: list[str], word: str) -> Iterable[str]:
    """Return the words that may stand at the cursor, after the words ``before`` it. They need not begin as ``word``."""
    if not before:
        return COMMANDS
    if before[0] not in COMMANDS:
        return ()
    parser = command_of(before[0]).parser()
    options = parser.options
    if word.startswith("-"):
        return sorted(name for name in options if name.startswith("--"))
    option = options.get(before[-1])
    if option is not None and option.nargs != 0:
        return option.choices or (_offered(parser, before[1:-1], "channel") if option.dest == "channel" else ())
    action = _next_positional(parser, before[1:])
    if action is None:
        return ()
    return action.choices or (_offered(parser, before[1:], "event") if action.dest in ("event", "events") else ())


def _next_positional(parser: Parser, words: list[str]) -> Action | None:
    number = 0
    value = False
    for word in words:
        if value:
            value = False
        elif word.startswith("-") and word in parser.options:
            value = parser.options[word].nargs != 0
        else:
            number += 1
    positionals = parser.positionals
    if number >= len(positionals) and positionals[-1].nargs != "*":
        return None
    return positionals[min(number, len(positionals) - 1)]


def _offered(parser: Parser, words: list[str], what: Literal["channel", "event"]) -> Iterable[str]:
    """Ask the server of the URL for its channels, or for the events of the channel that the line names."""
    try:
        options = parser.parse_begun(words)
        found = checked(asyncio.run(_describes(options)))
    except (Failure, WsrpcError, OSError, TypeError, ValueError):  # an error would garble the line that is being typed
        return ()
    events = found.emits if "events" in vars(options) else found.events
    if what == "channel":
        return sorted({event.channel for event in events if event.channel is not None})
    channels: Any = options.channel
    wanted = channels if channels.__class__ is list else [channels]
    return [event.event for event in events if event.channel in wanted]


async def _describes(options: Namespace) -> Any:
    async with asyncio.timeout(SECONDS):
        client = client_of(options, None)
        try:
            await client.connect()
            return await describes(client, options.url)
        finally:
            await client.close()


completion = Command(_parser, _completion)
complete = Command(_complete_parser, _complete)
