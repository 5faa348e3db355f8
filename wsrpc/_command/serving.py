"""The command ``serve``, which runs an ASGI application under uvicorn."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import click
from click.core import ParameterSource

from .command_errors import REMOTE, Failure, UsageError

OPTIONS_OF_UVICORN = """All other options are those of uvicorn, such as --host, --port, --uds, --workers, --factory,
--app-dir, --log-level, --root-path, --forwarded-allow-ips and --ssl-certfile: see uvicorn --help."""


@click.command(epilog=OPTIONS_OF_UVICORN, context_settings={"ignore_unknown_options": True})
@click.argument("words", metavar="APP [OPTIONS OF UVICORN]...", nargs=-1, type=click.UNPROCESSED)
@click.option("--drain-timeout", metavar="SECONDS", type=float, default=20.0, show_default=True, help="Time to drain.")
@click.option("--docs", is_flag=True, help="Show the events of a Server on a page, at /docs.")
@click.option("--health-path", metavar="PATH", help="Answer health checks here. Default: /healthz, if APP has none.")
def serve(words: tuple[str, ...], **params: Any) -> int:
    """Run an ASGI application or a Server, such as app:app, in workers.

    SIGTERM drains and ends. SIGHUP replaces the workers one after another, without losing calls.
    """
    try:
        run = importlib.import_module("wsrpc_adapters.uvicorn").serve
    except ImportError as exc:
        raise UsageError(str(exc)) from exc
    options = _options_of_uvicorn([*words])
    sys.path.insert(0, options.pop("app_dir", "") or os.getcwd())
    try:
        run(**options, **params)
    except RuntimeError as exc:
        text, _, details = str(exc).partition("\n")
        raise Failure(text, REMOTE, details) from exc
    except (OSError, OverflowError, TypeError, ValueError) as exc:
        raise UsageError(getattr(exc, "strerror", None) or str(exc)) from exc
    return 0


def _options_of_uvicorn(words: list[str]) -> dict[str, Any]:
    """Return the application and the options that are given, on the command line or as variables, as uvicorn does."""
    context = importlib.import_module("uvicorn.main").main.make_context("wsrpc serve", words)
    given: dict[str, Any] = {
        name: value
        for name, value in context.params.items()
        if context.get_parameter_source(name) != ParameterSource.DEFAULT
    }
    if "headers" in given:
        given["headers"] = [header.split(":", 1) for header in given["headers"]]
    return given
