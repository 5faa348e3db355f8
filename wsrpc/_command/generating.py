"""The commands ``types`` and ``client``, which write a server's events in other forms."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import msgspec

from .._schema.asyncapi import asyncapi
from .._schema.components import Info
from .._schema.openapi import Served, openapi
from ..codegen._checking import InvalidDescription
from ..codegen.python_client import client_module
from ..codegen.typescript import declarations
from ..errors import printable
from ..schema import Description
from .command_errors import USAGE, UsageError
from .command_options import APP_DIR, HEADER, Options, several
from .description_request import written
from .loading import ROUTES, SERVER, TARGETS, Wanted, described
from .running import complain, print_text

COMMON = several(
    click.argument("target", type=click.Path()),
    click.option(
        "-o", "--output", metavar="FILE", type=click.Path(path_type=Path), help="Write to FILE instead of stdout."
    ),
    click.option("--check", is_flag=True, help="Write nothing. Exit with 1 if FILE is not up to date."),
    APP_DIR,
    HEADER,
)
TARGET = f"TARGET is {TARGETS}"
OPENAPI_TARGET = "With --openapi, TARGET is the application that routes() returns, such as app:api."
TextOf = Callable[[Options, Description, Any], str]
"""Function that returns the text for a description, and for what was loaded."""
SCHEMES = {"asyncapi": "ws|wss", "openapi": "http|https"}
"""The schemes of the URLs in a document, by the option for its form."""


@click.command(epilog=f"{TARGET} {OPENAPI_TARGET}")
@COMMON
@click.option("--json", "form", flag_value="json", help="Write JSON Schema instead of TypeScript.")
@click.option("--asyncapi", "form", flag_value="asyncapi", help="Write an AsyncAPI 3 document.")
@click.option(
    "--openapi", "form", flag_value="openapi", help="Write an OpenAPI 3.1 document of the URLs that routes() serves."
)
@click.option("--title", metavar="TEXT", help="The title of the document. Default: TARGET.")
@click.option("--api-version", metavar="TEXT", help="The version of the API in the document. Default: 1.0.0.")
@click.option("--url", metavar="URL", help="The URL in the document at which clients reach the server.")
@click.option(
    "--msgpack",
    is_flag=True,
    help="Write declarations for a Client with the codec msgpack, whose bytes are a Uint8Array. They contain nothing "
    "for ws-wrapper.",
)
def types(**params: Any) -> int:
    """Write TypeScript declarations of the events that a server, client or router has handlers for."""
    options = Options(**params)
    form = options.form or "typescript"
    if options.msgpack and form != "typescript":
        raise UsageError(f"--msgpack is for TypeScript: leave out --{form}")
    given = [name for name in ("title", "api_version", "url") if params[name] is not None]
    if given and form not in SCHEMES:
        raise UsageError(f"--{given[0].replace('_', '-')} is for --asyncapi and --openapi")
    if form in SCHEMES:
        options.info = _info(options, SCHEMES[form])
    return _generate(options, DOCUMENT_FORMS[form], ROUTES if form == "openapi" else SERVER)


@click.command(epilog=TARGET)
@COMMON
def client(**params: Any) -> int:
    """Write a Python module with the types of a server, and a typed proxy for each of its channels."""
    return _generate(Options(**params), lambda options, description, found: client_module(description), SERVER)


def _info(options: Options, schemes: str) -> Info:
    url: str | None = options.url
    if url is not None and not re.fullmatch(rf"({schemes})://[^\s/?#@]+(/[^\s?#]*)?", url):
        schemes = schemes.replace("|", " or ")
        raise UsageError(f"--url is a URL of the scheme {schemes}, without a user, a query or a fragment")
    return Info(options.title or options.target, options.api_version or "1.0.0", url)


def _generate(options: Options, text_of: TextOf, wanted: Wanted) -> int:
    """Write the text that ``text_of`` generates from the target, and return the exit code."""
    output: Path | None = options.output
    if options.check and output is None:
        raise UsageError("--check compares with a file: say which, with -o")
    [(description, found)] = described([options.target], options.header, wanted, options.app_dir)
    try:
        text = written(lambda: text_of(options, description, found))
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


def _as_openapi(options: Options, description: Description, found: Any) -> str:
    served = Served(found.calls, found.runs, found.rooms)
    return _as_json(openapi(description, served, options.info, complain))


DOCUMENT_FORMS: dict[str, TextOf] = {
    "typescript": lambda options, description, found: declarations(description, msgpack=options.msgpack),
    "json": lambda options, description, found: _as_json(
        {"fingerprint": description.fingerprint, **msgspec.to_builtins(description)}
    ),
    "asyncapi": lambda options, description, found: _as_json(asyncapi(description, options.info)),
    "openapi": _as_openapi,
}
"""What `types` writes, by the option that chooses it."""


def _as_json(document: Any) -> str:
    return printable(msgspec.json.format(msgspec.json.encode(document), indent=2).decode()) + "\n"


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
