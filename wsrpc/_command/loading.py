"""Finds the description of a server: in a program named as ``module:attribute``, in a file, or at a URL."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import signal
import sys
import traceback
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import msgspec

from .._client.client import Client
from .._core.api.registration import Router
from .._server.server import Server
from ..codegen._checking import InvalidDescription
from ..schema import Description, describe
from .command_errors import Failure, UsageError
from .description_request import ask, checked

WANTED = (Server, Client, Router)
TARGETS = """a server in a module, such as app:server, or a function that returns it; a description in a .json
file; or the ws:// or wss:// URL of a server that offers its description."""


def descriptions_of(targets: Sequence[str], headers: Sequence[tuple[str, str]]) -> list[Description]:
    """Return the descriptions of servers. Each target has one of the three forms of `TARGETS`.

    Args:
        headers: the headers of the opening handshake, for URLs.

    Raises:
        UsageError: there is no description that can be used. The text says why.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # `wsrpc.__main__` has set it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if headers and not any("://" in target for target in targets):
        raise UsageError("--header is for the URL of a server")
    return [_description(target, dict(headers)) for target in targets]


def _description(target: str, headers: dict[str, str]) -> Description:
    try:
        if "://" in target:
            return checked(ask(target, headers))
        if target.endswith(".json"):
            return checked(read(target))
    except InvalidDescription as exc:
        raise UsageError(f"{target} has no usable description: {exc}") from exc
    except Failure as exc:  # not with 1, which is an answer of `--check` and of `diff`
        raise UsageError(f"{exc}") from exc
    with redirect_stdout(sys.stderr):  # output of the application must not be part of the file
        loaded = load(target)
    return describe(loaded)


def load(target: str) -> Server | Client | Router:
    """Load the server, client or router that ``module:attribute`` names, or that a function of that name returns.

    Modules are searched as by ``python -m``: in the working directory first.

    Raises:
        UsageError: nothing can be loaded. The text says why.
    """
    module_name, _, path = target.partition(":")
    if not module_name or not path:
        raise UsageError(
            f"give a module and a name in it, such as app:server, a .json file or a ws:// URL; got {target!r}"
        )
    if module_name.endswith(".py") or os.sep in module_name:
        raise UsageError(f"give a module, such as app.main:{path}, not a file; got {target!r}")
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    run = Server.run
    Server.run = lambda self, *args, **options: None  # type: ignore[method-assign]  # many modules end with a call of `run`
    try:
        found = _looked_up(_imported(module_name), module_name, path)
        return found if isinstance(found, WANTED) else _made_by(found, target)
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


def _imported(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as exc:
        if isinstance(exc, ModuleNotFoundError) and f"{name}.".startswith(f"{exc.name}."):
            raise UsageError(f"there is no module {exc.name!r}, in {os.getcwd()} or installed") from exc
        raise UsageError(f"module {name!r} cannot be imported:", _traceback(exc)) from exc


def _traceback(exc: BaseException) -> str:
    """Return the traceback without its beginning: it starts at the first line of the application."""
    tb = exc.__traceback__
    while tb is not None and re.match(rf"importlib|{__name__}", str(tb.tb_frame.f_globals.get("__name__"))):
        tb = tb.tb_next
    return "".join(traceback.format_exception(type(exc), exc, tb)).rstrip()


def _looked_up(module: Any, name: str, path: str) -> Any:
    found = module
    for part in path.split("."):
        if not hasattr(found, part):
            there = [key for key in dir(module) if isinstance(getattr(module, key), WANTED)]
            hint = f"; it has {', '.join(f'{name}:{key}' for key in there)}" if there else ""
            raise UsageError(f"{name!r} has no {path!r}{hint}")
        found = getattr(found, part)
    return found


def _made_by(found: Any, target: str) -> Server | Client | Router:
    wanted = "a Server, Client or Router"
    if not callable(found):
        raise UsageError(f"{target} must be {wanted}, or a function that returns one; it is {found!r}")
    if inspect.iscoroutinefunction(found):
        raise UsageError(f"{target} is async: name {wanted}, or a plain function that returns one")
    try:
        made = found()
    except (Exception, SystemExit) as exc:
        raise UsageError(f"{target}() failed:", _traceback(exc)) from exc
    if not isinstance(made, WANTED):
        raise UsageError(f"{target}() must return {wanted}; it returned {made!r}")
    return made
