"""Options that several commands have."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import click

Options = SimpleNamespace
"""Values of the options and arguments of one command."""

COMPLETE = "_WSRPC_COMPLETE"
"""Environment variable with which the scripts for shells ask for words."""
ENGINE_TOKEN = "WSRPC_ENGINE_TOKEN"
"""Environment variable with the secret of an engine. That of servers is not sent to it."""
Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


class Command(click.Command):
    """Command for a server. Its arguments may be negative numbers, which must not be read as options."""

    ignore_unknown_options = True

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if ctx.resilient_parsing and args[-1:] == ["--channel"]:
            # The value of this option is being completed. Without a value, click would also drop the URL.
            args = args[:-1]
        may_be_options = args[: args.index("--")] if "--" in args else args.copy()
        rest = super().parse_args(ctx, args)
        arguments = [param for param in self.params if isinstance(param, click.Argument)]
        for param in () if ctx.resilient_parsing else arguments:
            words = ctx.params[param.name]
            for word in (words,) if isinstance(words, str) else words or ():
                if word in may_be_options and re.match("-[^0-9]", word):
                    raise click.NoSuchOption(word, ctx=ctx)
        return rest


def several(*decorators: Decorator) -> Decorator:
    """Return a decorator that adds several options, in this order."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate


def _offered(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Return a parameter's completions from a server. `complete` sets ``obj`` to the function that requests them."""
    return [name for name in ctx.obj(Options(**ctx.params), param.name) if name.startswith(incomplete)]


def _token(text: str) -> str:
    if not text:
        raise click.UsageError("the token of --token is empty")
    return text


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise click.BadParameter(f'expected "NAME: VALUE", got {text!r}')
    return name.strip(), value.strip()


def _entry(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise click.BadParameter(f"expected NAME=VALUE, got {text!r}")
    return name, value


def channel_option(about: str, **options: Any) -> Decorator:
    """Return a decorator that adds ``--channel``."""
    return click.option("--channel", metavar="NAME", shell_complete=_offered, help=about, **options)


def items_option(what: str) -> Decorator:
    """Return a decorator that adds ``--take``."""
    return click.option("--take", metavar="N", type=click.IntRange(min=1), help=f"End after N {what}.")


APP_DIR = click.option("--app-dir", metavar="DIR", help="Search modules here. Default: the working directory.")
HEADER = click.option(
    "--header", metavar='"NAME: VALUE"', type=_header, multiple=True, help="Send this header. Can be repeated."
)
URL = click.argument("url")
EVENTS = click.argument("events", metavar="[EVENT]...", nargs=-1, shell_complete=_offered)
SECONDS = click.FloatRange(0, min_open=True)
RETRIES = click.IntRange(min=0)
PROFILES = click.Choice(["go"])
CONNECTION = several(
    click.option("--timeout", metavar="SECONDS", type=SECONDS, help="Limit the time to connect, and of a request."),
    click.option("--retry", metavar="N", type=RETRIES, default=0, help="Try again, as long as nothing has run."),
    HEADER,
    click.option("--token", envvar="WSRPC_TOKEN", show_envvar=True, type=_token, help="Send this bearer token."),
    click.option("--subprotocol", metavar="NAME", multiple=True, help="Offer this subprotocol. Can be repeated."),
    click.option("--cacert", type=click.Path(), help="Trust the authorities in this file, not the system's."),
    click.option("--cert", type=click.Path(), help="Send the client certificate in this file."),
    click.option("--key", type=click.Path(), help="The certificate's private key, if it is in another file."),
    click.option("--insecure", is_flag=True, help="Do not verify the server's certificate."),
    click.option("--compress", is_flag=True, help="Offer to compress messages."),
    click.option("--profile", type=PROFILES, help="Send only what ws-server-wrapper-go accepts."),
    click.option("--verbose", is_flag=True, help="Show the library's log and each message on stderr."),
)
"""How to connect."""
CALL = several(
    URL,
    click.argument("event", shell_complete=_offered),
    click.argument("args", metavar="[ARG]...", nargs=-1),
    channel_option("A named channel (default: the main channel)."),
    click.option(
        "--metadata", "-H", metavar="NAME=VALUE", type=_entry, multiple=True, help="Send metadata. Can be repeated."
    ),
    CONNECTION,
)
"""An event for a server, and its arguments."""
CLUSTER = click.option("--cluster", metavar="NAME", help="The cluster to join, if URL is that of an engine.")
ITEM_FORMS = click.Choice(["json", "text", "bytes"])
UPLOAD = several(
    click.option("--send", type=click.Path(), help="Upload the items in this file. ARG - uploads them from stdin."),
    click.option(
        "--as", "form", type=ITEM_FORMS, default="json", help="An item is a line of JSON or text, or some bytes."
    ),
)
