"""The commands ``types`` and ``client``, which write a server's events as TypeScript and as a Python client."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
import msgspec

from ..codegen._checking import InvalidDescription
from ..codegen.python_client import client_module
from ..codegen.typescript import declarations
from ..errors import printable
from ..schema import Description
from .command_errors import USAGE, UsageError
from .command_options import HEADER, Options, several
from .description_request import written
from .loading import TARGETS, descriptions_of
from .printing import print_text
from .running import complain

COMMON = several(
    click.argument("target", type=click.Path()),
    click.option(
        "-o", "--output", metavar="FILE", type=click.Path(path_type=Path), help="Write to FILE instead of stdout."
    ),
    click.option("--check", is_flag=True, help="Write nothing. Exit with 1 if FILE is not up to date."),
    HEADER,
)
TARGET = f"TARGET is {TARGETS}"


@click.command(epilog=TARGET)
@COMMON
@click.option("--json", is_flag=True, help="Write JSON Schema instead of TypeScript.")
@click.option(
    "--msgpack",
    is_flag=True,
    help="Write declarations for a Client with the codec msgpack, whose bytes are a Uint8Array. They contain nothing "
    "for ws-wrapper.",
)
def types(**params: Any) -> int:
    """Write TypeScript declarations of the events that a server, client or router has handlers for."""
    options = Options(**params)
    if options.json and options.msgpack:
        raise UsageError("--msgpack is for TypeScript: leave out --json")
    return _generate(options, _as_json if options.json else partial(declarations, msgpack=options.msgpack))


@click.command(epilog=TARGET)
@COMMON
def client(**params: Any) -> int:
    """Write a Python module with the types of a server, and a typed proxy for each of its channels."""
    return _generate(Options(**params), client_module)


def _generate(options: Options, text_of: Callable[[Description], str]) -> int:
    """Write the text that ``text_of`` generates from the description, and return the exit code."""
    output: Path | None = options.output
    if options.check and output is None:
        raise UsageError("--check compares with a file: say which, with -o")
    [description] = descriptions_of([options.target], options.header)
    try:
        text = written(lambda: text_of(description))
    except InvalidDescription as exc:
        raise UsageError(f"{options.target} has no usable description: {exc}") from exc
    for event in description.events:
        where = event.event if event.channel is None else f"{event.channel}:{event.event}"
        for note in event.notes:
            complain(f"{where}: {note}")
    if output is not None:
        return _write(text, output, check=options.check)
    print_text(text)
    return 0


def _as_json(description: Description) -> str:
    return printable(msgspec.json.format(msgspec.json.encode(description), indent=2).decode()) + "\n"


def _write(text: str, output: Path, *, check: bool) -> int:
    try:
        if check:
            current = output.read_text("utf-8", errors="replace") if output.exists() else None
            if current == text:
                return 0
            complain(f"{output} is not up to date")
            return 1
        output.write_text(text, "utf-8", newline="\n")
    except OSError as exc:
        complain(f"{output}: {exc.strerror}")
        return USAGE
    return 0
