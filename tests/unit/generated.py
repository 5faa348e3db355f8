"""Generated Python modules under test: loaded, judged statement by statement, and checked by the tools."""

from __future__ import annotations

import ast
import builtins
import inspect
import itertools
import subprocess
import sys
import types
from collections.abc import AsyncIterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, get_args, get_origin, get_type_hints

import wsrpc
from wsrpc import Client
from wsrpc._conversion.convert import converter

_numbers = itertools.count()

CALLS = {"msgspec.field", "msgspec.Meta", "dataclasses.field", "dataclasses.dataclass", "wsrpc.method"}
CALLS |= {"set", "builtins.set"}
IMPORTS = {"annotations", "builtins", "dataclasses", "dt", "enum", "msgspec", "wsrpc"}
TYPES = {"bool", "bytes", "dict", "float", "int", "list", "set", "str", "tuple"}
ATTRIBUTES = {
    *("msgspec.Struct", "msgspec.UNSET", "msgspec.UnsetType", "enum.Enum", "dt.datetime", "dt.date", "dt.time"),
    *("dt.timedelta", "wsrpc.Stream", "wsrpc.AnonymousChannel", "wsrpc.Client", "wsrpc.Peer", "wsrpc.cluster"),
    "wsrpc.cluster.ClusterPeer",
    *(f"builtins.{name}" for name in TYPES),
}


@contextmanager
def loaded(text: str) -> Iterator[Any]:
    """The module with this text, which its classes find by its name."""
    module = types.ModuleType(f"generated_{next(_numbers)}")
    sys.modules[module.__name__] = module
    try:
        exec(compile(text, module.__name__, "exec"), module.__dict__)
        yield module
    finally:
        del sys.modules[module.__name__]


def contracts_of(module: Any) -> Iterator[type[Any]]:
    for value in list(vars(module).values()):
        if isinstance(value, type) and Protocol in value.__bases__:
            yield value


def proxies_of(module: Any, caller: Client) -> dict[str, Any]:
    """The proxy that each function of the module returns."""
    functions = [value for value in vars(module).values() if inspect.isfunction(value)]
    return {function.__name__: function(caller) for function in functions}


def check_types(module: Any) -> int:
    """Whether wsrpc converts to each type that a contract names; how many there are."""
    count = 0
    for contract in contracts_of(module):
        for method in [value for value in vars(contract).values() if inspect.isfunction(value)]:
            if method.__name__.startswith("_"):
                continue  # of `Protocol` itself
            for hint in get_type_hints(method, include_extras=True).values():
                tp = get_args(hint)[0] if get_origin(hint) in (wsrpc.Stream, AsyncIterable) else hint
                if tp is not wsrpc.AnonymousChannel:
                    converter(tp)
                    count += 1
    return count


# ---------------------------------------------------------------- what stands in a module


def check_statements(text: str) -> None:
    """Whether a module consists of what one is made of, and calls nothing else."""
    tree = ast.parse(text)
    for node in tree.body:
        assert isinstance(node, ast.Import | ast.ImportFrom | ast.ClassDef | ast.FunctionDef | ast.AnnAssign), shown(
            node
        )
        if isinstance(node, ast.ClassDef):
            _check_class(node)
        elif isinstance(node, ast.FunctionDef):
            about, returned = node.body
            assert _is_text(about) and isinstance(returned, ast.Return) and _is_proxy(returned.value), shown(node)
        elif isinstance(node, ast.AnnAssign):
            assert shown(node.annotation) == "TypeAlias"
    known = {*IMPORTS, *TYPES, "caller", *_defined(tree)}
    for inner in ast.walk(tree):
        if isinstance(inner, ast.Call):
            assert shown(inner.func) in CALLS or _is_proxy(inner) or _is_channel(inner), shown(inner)
        elif isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Load):
            assert inner.id in known, inner.id
        elif isinstance(inner, ast.Attribute) and isinstance(inner.value, ast.Name) and inner.value.id in IMPORTS:
            assert shown(inner) in ATTRIBUTES | CALLS, shown(inner)
        else:
            assert not isinstance(
                inner, ast.Await | ast.Yield | ast.JoinedStr | ast.Starred | ast.NamedExpr | ast.Delete
            )


def shown(node: ast.AST | None) -> str:
    return "" if node is None else ast.unparse(node)


def _check_class(node: ast.ClassDef) -> None:
    for inner in node.body:
        match inner:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                assert node.bases[0].id == "Protocol"  # type: ignore[attr-defined]
                assert all(_is_text(each) or shown(each) == "..." for each in inner.body), shown(inner)
            case ast.AnnAssign():
                assert shown(node.bases[0] if node.bases else None) in ("", "msgspec.Struct"), shown(inner)
            case ast.Assign():
                assert shown(node.bases[0]) == "enum.Enum" and isinstance(ast.literal_eval(inner.value), int | str)
            case _:
                assert _is_text(inner) or isinstance(inner, ast.Pass), shown(inner)


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _is_proxy(node: ast.AST | None) -> bool:
    """Whether it is ``caller.proxy(Contract)``, of a channel or not."""
    match node:
        case ast.Call(func=ast.Attribute(value=value, attr="proxy"), args=[ast.Name()], keywords=[]):
            return shown(value) == "caller" or _is_channel(value)
        case _:
            return False


def _is_channel(node: ast.AST) -> bool:
    match node:
        case ast.Call(func=func, args=[ast.Constant()], keywords=[]):
            return shown(func) == "caller.of"
        case _:
            return False


def _defined(tree: ast.Module) -> Iterator[str]:
    """The names of a module's own, none of which is a builtin's."""
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ClassDef | ast.FunctionDef):
            assert not hasattr(builtins, node.name)
            yield node.name
        elif isinstance(node, ast.AnnAssign):
            yield shown(node.target)


# ---------------------------------------------------------------- tools


def ruff(folder: Path, *arguments: str) -> str:
    """What ruff says of the files in a folder, by its own rules and not by ours."""
    done = subprocess.run(
        [sys.executable, "-m", "ruff", *arguments, "--isolated", "--line-length", "88", "--no-cache", "."],
        cwd=folder,  # elsewhere ruff takes wsrpc for a module of the project
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr
    return done.stdout


def formatting(folder: Path) -> str:
    """What ``ruff format`` would change."""
    return ruff(folder, "format", "--diff")


def lint(folder: Path) -> str:
    """What ``ruff check`` says. A name of one letter is the server's."""
    said = ruff(folder, "check", "--select", "E,F,I,UP,B", "--ignore", "E741,E742,E743", "--output-format", "concise")
    return "" if "All checks passed" in said else said
