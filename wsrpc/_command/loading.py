"""Finds the description of a server: in a program named as ``module:attribute``, in a file, or at a URL."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, MutableMapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from .._client.client import Client
from .._core.api.registration import Router
from .._http_server.routes import HttpRoutes
from .._server.server import Server
from ..codegen._checking import InvalidDescription
from ..schema import Description, describe
from .command_errors import Failure, UsageError
from .description_request import ask, checked


class Wanted(NamedTuple):
    """What a target can be."""

    text: str
    example: str
    found_in: Callable[[Any], Any]
    """Function that returns what is wanted of a target. None if the target is something else."""


def _routes_in(found: Any) -> Any:
    # In an ASGI application, they are an attribute. One of aiohttp is a mapping, and must not get other attributes.
    values: list[Any] = [getattr(found, "http_routes", None)]
    if isinstance(found, MutableMapping):
        values += found.values()
    return next((each for each in values if isinstance(each, HttpRoutes)), None)


def _server_in(found: Any) -> Server | Client | Router | None:
    return found if isinstance(found, Server | Client | Router) else None


SERVER = Wanted(
    "a Server, Client or Router",
    "app:server, a .json file or a ws:// URL",
    _server_in,
)
ROUTES = Wanted("an application that routes() returns", "app:api", _routes_in)
"""The `HttpRoutes` of an application."""


TARGETS = """a server in a module, such as app:server, or a function that returns it; a description in a .json
file; or the ws:// or wss:// URL of a server that offers its description."""


def described(
    targets: Sequence[str], headers: Sequence[tuple[str, str]], wanted: Wanted = SERVER, folder: str | None = None
) -> list[tuple[Description, Any]]:
    """Return the descriptions of targets, each with what was loaded: None if it was no module.

    Args:
        headers: the headers of the opening handshake, for URLs.
        wanted: what the targets are. A server can also be named by a file or a URL; see `TARGETS`.
        folder: as for `load`.

    Raises:
        UsageError: there is no description that can be used. The text says why.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # `wsrpc.__main__` has set it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if headers and not any("://" in target for target in targets):
        raise UsageError("--header is for the URL of a server")
    return [_described(target, dict(headers), wanted, folder) for target in targets]


def _described(target: str, headers: dict[str, str], wanted: Wanted, folder: str | None) -> tuple[Description, Any]:
    try:
        if wanted is SERVER and "://" in target:
            return checked(ask(target, headers)), None
        if wanted is SERVER and target.endswith(".json"):
            return checked(read(target)), None
    except InvalidDescription as exc:
        raise UsageError(f"{target} has no usable description: {exc}") from exc
    except Failure as exc:  # not with 1, which is an answer of `--check` and of `diff`
        raise UsageError(f"{exc}") from exc
    with redirect_stdout(sys.stderr):  # output of the application must not be part of the file
        found = load(target, wanted, folder)
    return describe(found if wanted is SERVER else found.server), found


def load(target: str, wanted: Wanted, folder: str | None = None) -> Any:
    """Load what ``module:attribute`` names, or what a function of that name returns.

    Args:
        folder: where modules are searched first. None for the working directory, as with ``python -m``.

    Raises:
        UsageError: nothing can be loaded. The text says why.
    """
    module_name, _, path = target.partition(":")
    if not module_name or not path:
        raise UsageError(f"give a module and a name in it, such as {wanted.example}; got {target!r}")
    if module_name.endswith(".py") or os.sep in module_name:
        raise UsageError(f"give a module, such as app.main:{path}, not a file; got {target!r}")
    if folder is not None:
        sys.path.insert(0, folder)
    elif os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    run = Server.run
    Server.run = lambda self, *args, **options: None  # type: ignore[method-assign]  # many modules end with a call of `run`
    try:
        named = _looked_up(_imported(module_name, folder), module_name, path, wanted)
        found = wanted.found_in(named)
        return _made_by(named, target, wanted) if found is None else found
    finally:
        Server.run = run  # type: ignore[method-assign]


def read(path: str) -> Any:
    """Read the JSON in a file.

    Raises:
        UsageError: the file cannot be read, or is not JSON. The text says why.
    """
    try:
        return msgspec.json.decode(Path(path).read_bytes())
    except OSError as exc:
        raise UsageError(f"{path}: {exc.strerror}") from exc
    except (msgspec.DecodeError, RecursionError) as exc:
        raise UsageError(f"{path} is not JSON: {exc}") from exc


def _imported(name: str, folder: str | None) -> Any:
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as exc:
        if isinstance(exc, ModuleNotFoundError) and f"{name}.".startswith(f"{exc.name}."):
            raise UsageError(f"there is no module {exc.name!r}, in {folder or os.getcwd()} or installed") from exc
        raise UsageError(f"module {name!r} cannot be imported:", _traceback(exc)) from exc


def _traceback(exc: BaseException) -> str:
    """Return the traceback without its beginning: it starts at the first line of the application."""
    tb = exc.__traceback__
    while tb is not None and re.match(rf"importlib|{__name__}", str(tb.tb_frame.f_globals.get("__name__"))):
        tb = tb.tb_next
    return "".join(traceback.format_exception(type(exc), exc, tb)).rstrip()


def _looked_up(module: Any, name: str, path: str, wanted: Wanted) -> Any:
    found = module
    for part in path.split("."):
        if not hasattr(found, part):
            there = [key for key in dir(module) if wanted.found_in(getattr(module, key)) is not None]
            hint = f"; it has {', '.join(f'{name}:{key}' for key in there)}" if there else ""
            raise UsageError(f"{name!r} has no {path!r}{hint}")
        found = getattr(found, part)
    return found


def _made_by(function: Any, target: str, wanted: Wanted) -> Any:
    if not callable(function):
        raise UsageError(f"{target} must be {wanted.text}, or a function that returns one; it is {function!r}")
    if inspect.iscoroutinefunction(function):
        raise UsageError(f"{target} is async: name {wanted.text}, or a plain function that returns one")
    try:
        made = function()
    except (Exception, SystemExit) as exc:
        raise UsageError(f"{target}() failed:", _traceback(exc)) from exc
    found = wanted.found_in(made)
    if found is None:
        raise UsageError(f"{target}() must return {wanted.text}; it returned {made!r}")
    return found
