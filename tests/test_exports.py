"""The list of public names, compared with what ``wsrpc`` really has."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import zipfile
from dataclasses import fields, is_dataclass
from importlib import import_module
from inspect import isclass, isfunction
from pathlib import Path
from pkgutil import iter_modules

import pytest

import wsrpc

ROOT = Path(__file__).parent.parent
MODULES = [wsrpc, *(import_module(found.name) for found in iter_modules(wsrpc.__path__, "wsrpc."))]


def order(name: str) -> tuple[bool, bool, str]:
    """Constants, then classes, then the rest: the order that the linter keeps `__all__` in."""
    return (not name.isupper(), not name[:1].isupper(), name)


def test_type_checkers_see_the_names_that_a_program_gets() -> None:
    [block] = [node for node in ast.parse(Path(wsrpc.__file__).read_text("utf-8")).body if isinstance(node, ast.If)][:1]
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    assert ast.unparse(block.test) == "typing.TYPE_CHECKING" and len(imports) == len(block.body)
    homes = {alias.name: f"{'.' * node.level}{node.module}" for node in imports for alias in node.names}
    assert sorted(homes, key=order) == wsrpc.__all__
    seen = {name: getattr(import_module(home, "wsrpc"), name) for name, home in homes.items()}
    assert [name for name, value in seen.items() if getattr(wsrpc, name) is not value] == []


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"^module 'wsrpc' has no attribute 'Clientt'$"):
        getattr(wsrpc, "Clientt")  # noqa: B009 - type checkers know that it does not exist
    assert set(wsrpc.__all__) < set(dir(wsrpc)) and "Clientt" not in dir(wsrpc)


@pytest.mark.parametrize(
    ("program", "unused"),
    [
        ("import wsrpc", {"asyncio", "msgspec", "websockets", "wsrpc.errors"}),
        (
            "from wsrpc import Client",
            {"wsrpc._server", "wsrpc.cluster", "wsrpc.codegen", "wsrpc._net.serving.handshake_checks"},
        ),
        (
            "from wsrpc import Server; Server().on('sum', lambda numbers: sum(numbers))",
            {"wsrpc._client", "wsrpc.codegen", "wsrpc._command", "click", "pydantic"},
        ),
    ],
)
def test_a_program_loads_only_what_it_uses(program: str, unused: set[str]) -> None:
    words = [sys.executable, "-c", f"{program}; import sys; print(*sys.modules)"]
    loaded = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()
    assert unused & set(loaded) == set()


def test_everything_is_there_within_a_zip(tmp_path: Path) -> None:
    """A program that is one file has its libraries so. `RedisStore` read its Lua script beside the module's file."""
    with zipfile.ZipFile(tmp_path / "program.zip", "w") as program:
        for package in ("wsrpc", "adapters/wsrpc_adapters"):
            for file in sorted((ROOT / package).rglob("*")):
                if file.is_file() and "__pycache__" not in file.parts:
                    program.write(file, Path(package).name / file.relative_to(ROOT / package))
    code = """
import sys
sys.path.insert(0, sys.argv[1])
from importlib import import_module
from pkgutil import walk_packages
import wsrpc, wsrpc_adapters
from wsrpc.conformance import _rows
_rows.load()
for package in (wsrpc, wsrpc_adapters):
    for module in walk_packages(package.__path__, f"{package.__name__}."):
        if not module.name.endswith("__main__"):
            print(import_module(module.name).__file__)
"""
    words = [sys.executable, "-P", "-c", code, str(tmp_path / "program.zip")]
    ran = subprocess.run(words, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    places = ran.stdout.split()
    assert len(places) > 300 and [place for place in places if not place.startswith(str(tmp_path))] == []


def test_middleware_needs_no_import_of_what_it_gets() -> None:
    program = """
import asyncio
from wsrpc import Client, Server

async def main():
    server = Server()

    @server.use
    async def around(ctx, call_next):
        return [ctx.event, await call_next(ctx)]

    server.on("add", lambda a, b: a + b)
    async with server.listen() as listening, Client(listening.url) as client:
        print(await client.request("add", 1, 2))

asyncio.run(main())
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (ran.stdout, ran.stderr) == ("['add', 3]\n", "")


def test_what_is_listed_is_our_own() -> None:
    """A name of another library would become a promise about that library."""
    values = {name: getattr(wsrpc, name) for name in wsrpc.__all__}
    homes = {name: value.__module__ for name, value in values.items() if isclass(value) or isfunction(value)}
    assert {name: home for name, home in homes.items() if home.partition(".")[0] != "wsrpc"} == {}


def test_modules_list_only_what_they_have() -> None:
    for module in MODULES:
        assert [name for name in getattr(module, "__all__", ()) if not hasattr(module, name)] == [], module


def test_a_public_name_has_one_home() -> None:
    homes: dict[int, list[str]] = {}
    for module in MODULES:
        for name in getattr(module, "__all__", ()):
            homes.setdefault(id(getattr(module, name)), []).append(f"{module.__name__}.{name}")
    assert [names for names in homes.values() if len(names) > 1] == []


def fields_of(cls: type) -> list[str]:
    """The public fields of a Struct, a dataclass or a named tuple."""
    names = [field.name for field in fields(cls)] if is_dataclass(cls) else getattr(cls, "__struct_fields__", ())
    return [name for name in (*names, *getattr(cls, "_fields", ())) if not name.startswith("_")]


def test_help_explains_each_field_of_each_public_class() -> None:
    """`help` shows the docstring of the class, but not the strings below its fields."""
    values = [getattr(module, name) for module in MODULES for name in getattr(module, "__all__", ())]
    missing = {
        f"{cls.__qualname__}.{name}"
        for cls in filter(isclass, values)
        for name in fields_of(cls)
        if not re.search(rf"``{name}``|^ +(\w+, )*{name}(, \w+)*: ", cls.__doc__ or "", re.MULTILINE)
    }
    assert missing == set()
