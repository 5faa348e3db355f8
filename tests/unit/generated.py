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
from wsrpc._values.convert import converter
from wsrpc.codegen._python_text import DEPRECATED

_numbers = itertools.count()

CALLS = {
    *("deprecated", "msgspec.field", "wsrpc.method", "set", "builtins.set", "caller.of", "caller.proxy", "Decimal"),
    *("UUID", "dt.date", "dt.datetime", "dt.time", "dt.timedelta", "dt.timezone"),
}
MODULES = {
    *("__future__", "builtins", "collections.abc", "datetime", "decimal", "enum", "msgspec", "typing", "uuid", "wsrpc")
}
IMPORTS = {"annotations", "builtins", "dt", "enum", "msgspec", "wsrpc"}
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
    known = {*IMPORTS, *TYPES, "caller"}
    if f"\n{DEPRECATED}\n" in text:
        text = text.replace(DEPRECATED, "")
        known.add("deprecated")
    tree = ast.parse(text)
    for node in tree.body:
        match node:
            case ast.Import():
                assert all(alias.name.partition(".")[0] in MODULES for alias in node.names), shown(node)
            case ast.ImportFrom(module=module):
                assert module in MODULES, module
                known |= {alias.name for alias in node.names}
            case ast.ClassDef() | ast.FunctionDef():
                assert not hasattr(builtins, node.name)
                known.add(node.name)
            case ast.Assign(targets=[ast.Name("CONTRACT")], value=ast.Constant()):
                known.add("CONTRACT")
            case ast.AnnAssign():
                assert shown(node.annotation) == "TypeAlias"
                known.add(shown(node.target))
            case _:
                raise AssertionError(shown(node))
    for inner in ast.walk(tree):
        match inner:
            case ast.Call(func=ast.Attribute(value=ast.Call() as channel, attr="proxy"), args=[ast.Name()]):
                assert shown(channel.func) == "caller.of", shown(inner)
            case ast.Call():
                assert shown(inner.func) in CALLS, shown(inner)
            case ast.Expr():
                assert isinstance(inner.value, ast.Constant), shown(inner)
            case ast.Name(ctx=ast.Load()):
                assert inner.id in known, inner.id
            case ast.Attribute(value=ast.Name(id=name)) if name in IMPORTS:
                assert shown(inner) in ATTRIBUTES | CALLS, shown(inner)
            case ast.Await() | ast.Yield() | ast.JoinedStr() | ast.Starred() | ast.NamedExpr() | ast.Delete():
                raise AssertionError(shown(inner))


def shown(node: ast.AST) -> str:
    return ast.unparse(node)


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


def lint(folder: Path) -> str:
    """What ``ruff check`` says. A name of one letter is the server's."""
    said = ruff(folder, "check", "--select", "E,F,I,UP,B", "--ignore", "E741,E742,E743", "--output-format", "concise")
    return "" if "All checks passed" in said else said
