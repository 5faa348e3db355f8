"""`wsrpc types` and `wsrpc client` with a module of an application, or a description in a file."""

from __future__ import annotations

import json
from pathlib import Path
from textwrap import dedent

import pytest
from command_process import start

SERVER = """
from wsrpc import Client, Router, Server

server = Server()

@server.on("add")
def add(a: int, b: int) -> int:
    return a + b
"""
APP = f"""{SERVER}
def make_server():
    made = Server()
    made.on("made", lambda: None)
    return made

def make_nothing():
    return None

def make_trouble():
    raise OSError("no database")

async def make_later():
    return server

class Holder:
    router = Router()
    router.on("held", lambda: None)

client = Client("ws://127.0.0.1:1")
client.on("getName", lambda: "Ada")
number = 1
"""
CAFE = '''
from collections.abc import Iterator
import msgspec
from wsrpc import Server

class Cup(msgspec.Struct):
    drink: str
    size: int = 200

server = Server()

@server.on("brew")
def brew(cups: list[Cup], strong: bool = False) -> list[Cup]:
    """Brew some cups."""
    return cups

@server.on("menu")
def menu() -> Iterator[str]:
    yield "tea"

def odd() -> complex: ...
server.of("math").on("root", lambda number: 1j)
server.of("math").on("odd", odd)
'''
API = f"""{SERVER}
import wsrpc_adapters.aiohttp
from wsrpc_adapters.asgi import routes

@server.on("room", keep=60)
async def room() -> None: ...

server.on("a_b", lambda: 1)
server.of("a").on("b", lambda: 1)
api = routes(server, calls=["add", "a:b", "a_b"], runs=["room"], rooms=["*"])
on_aiohttp = wsrpc_adapters.aiohttp.routes(server, calls=["add"])

def make():
    return api
"""
NOTE = "wsrpc: math:odd: result: complex has no JSON Schema\n"
FILES = {
    "app.py": APP,
    "cafe.py": CAFE,
    "pack/__init__.py": "",
    "pack/inner.py": SERVER,
    "offered.py": API,
    "runs.py": f"{SERVER}\nserver.run('127.0.0.1', 8080)\n",
    "noisy.py": "print('starting')\nfrom app import server\ndef make():\n    print('made')\n    return server\n",
    "missing.py": "import no_such_thing\n",
    "divides.py": "1 / 0\n",
    "leaves.py": "raise SystemExit(3)\n",
    "open.json": '{"events": [',
    "deep.json": "[" * 5000,
    "nowhere.json": '{"events": [], "$defs": {"a": {"$ref": "#/$defs/b"}}}',
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pack").mkdir()
    for name, text in FILES.items():
        (tmp_path / name).write_text(text, "utf-8")
    return tmp_path


async def run(folder: Path, line: str, status: int = 0) -> tuple[str, str]:
    """What a command line prints to stdout and stderr."""
    process = await start(*line.split(), cwd=folder)
    out, err = await process.communicate()
    assert process.returncode == status, err.decode()
    return out.decode(), err.decode()


@pytest.mark.parametrize(
    ("line", "part", "said"),
    [
        ("types app:server", "  add: (a: number, b: number) => number\n", ""),
        ("types app:make_server", "  made: () => unknown\n", ""),
        ("types app:Holder.router", "  held: () => unknown\n", ""),
        ("types app:client", "  getName: () => unknown\n", ""),
        ("types runs:server", "  add: (a: number, b: number) => number\n", ""),
        ("types noisy:make", "  add: (a: number, b: number) => number\n", "starting\nmade\n"),
        ("types cafe:server", "menu: () => Items<string>", NOTE),
        ("types cafe:server --msgpack", "  streams: {\n    menu: () => string\n  }\n", NOTE),
        ("types app:server --json", '"event": "add"', ""),
        ("client cafe:server", "class Cup(msgspec.Struct):", NOTE),
        ("types app:server --asyncapi", '"title": "app:server",\n    "version": "1.0.0",', ""),
        ("types app:server --asyncapi --title Sums --api-version 2", '"title": "Sums",\n    "version": "2",', ""),
        ("types app:server --asyncapi --url wss://a.example:8/ws", '"address": "/ws",', ""),
        (
            "types app:server --asyncapi --url wss://a.example:8/ws",
            '"host": "a.example:8",\n      "protocol": "wss"',
            "",
        ),
        ("types offered:api --openapi", '"/call/add": {', ""),
        ("types offered:make --openapi", '"/call/add": {', ""),
        ("types offered:on_aiohttp --openapi --url https://a.example/api/", '"url": "https://a.example/api"', ""),
        ("types inner:server --app-dir pack", "  add: (a: number, b: number) => number\n", ""),
        ("client inner:server --app-dir pack", "def add(", ""),
    ],
)
async def test_what_is_written(folder: Path, line: str, part: str, said: str) -> None:
    out, err = await run(folder, line)
    assert part in out and err == said


@pytest.mark.parametrize("line", ["types cafe:server -o api", "client cafe:server -o api"])
async def test_to_a_file_and_whether_that_is_up_to_date(folder: Path, line: str) -> None:
    file = folder / "api"
    outdated = ("", f"{NOTE}wsrpc: api is not up to date\n")
    assert await run(folder, f"{line} --check", status=1) == outdated
    assert not file.exists()
    assert await run(folder, line) == ("", NOTE)
    text = file.read_text("utf-8")
    assert text == (await run(folder, line.removesuffix(" -o api")))[0]
    assert await run(folder, f"{line} --check") == ("", NOTE)
    (folder / "cafe.py").write_text(CAFE.replace("drink: str", "drink: int"), "utf-8")
    assert await run(folder, f"{line} --check", status=1) == outdated
    assert file.read_text("utf-8") == text
    file.write_bytes(b"\xff\xfe")  # no text
    assert await run(folder, f"{line} --check", status=1) == outdated


async def test_operations_have_different_names(folder: Path) -> None:
    document = json.loads((await run(folder, "types offered:api --openapi"))[0])
    names = [operation["operationId"] for path in document["paths"].values() for operation in path.values()]
    assert sorted(names) == sorted(set(names)) and {"call_add", "call_a_b", "call_a_b_2", "read_room_2"} < {*names}


async def test_the_description_can_be_a_file(folder: Path) -> None:
    await run(folder, "types cafe:server --json -o cafe.json")
    written = json.loads((folder / "cafe.json").read_text("utf-8"))
    assert f'CONTRACT = "{written["fingerprint"]}"' in (await run(folder, "client cafe:server"))[0]
    described = {event["event"]: event for event in written["events"]}
    assert described["brew"]["doc"] == "Brew some cups." and described["menu"]["items"] == {"type": "string"}
    for command in ("client", "types", "types --json"):
        assert await run(folder, f"{command} cafe.json") == await run(folder, f"{command} cafe:server")


WANTED = "give a module and a name in it, such as app:server, a .json file or a ws:// URL; got"
NO_USE = "has no usable description:"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("types apps:server", "there is no module 'apps', in FOLDER or installed"),
        ("types pack.other:server", "there is no module 'pack.other', in FOLDER or installed"),
        ("types app:sever", "'app' has no 'sever'; it has app:client, app:server"),
        ("types app", f"{WANTED} 'app'"),
        ("types app.py:server", "give a module, such as app.main:server, not a file; got 'app.py:server'"),
        ("types app:number", "app:number must be a Server, Client or Router, or a function that returns one; it is 1"),
        ("types app:make_nothing", "app:make_nothing() must return a Server, Client or Router; it returned None"),
        ("client app:make_later", "app:make_later is async: name a Server, Client or Router, or a plain function that"),
        ("types app:server --check", "--check compares with a file: say which, with -o"),
        ("client app:server --check", "--check compares with a file: say which, with -o"),
        ("types app:server --header a:b", "--header is for the URL of a server"),
        ("types app:server --json --msgpack", "--msgpack is for TypeScript: leave out --json"),
        ("types app:server --asyncapi --msgpack", "--msgpack is for TypeScript: leave out --asyncapi"),
        ("types app:server --title x", "--title is for --asyncapi and --openapi"),
        ("types app:server --json --api-version 2", "--api-version is for --asyncapi and --openapi"),
        (
            "types app:server --asyncapi --url http://a",
            "--url is a URL of the scheme ws or wss, without a user, a query",
        ),
        (
            "types offered:api --openapi --url http://a:b@c",
            "--url is a URL of the scheme http or https, without a user, a",
        ),
        ("types app:server --openapi", "app:server must be an application that routes() returns, or a function that"),
        ("types offered:sever --openapi", "'offered' has no 'sever'; it has offered:api, offered:on_aiohttp"),
        ("types cafe.json --openapi", "give a module and a name in it, such as app:api; got 'cafe.json'"),
        ("types app:server --app-dir pack", "there is no module 'app', in pack or installed"),
        ("types app:server -o none/api", "none/api: No such file or directory"),
        ("types ws://a --header a", "Invalid value for '--header': expected \"NAME: VALUE\", got 'a' (see wsrpc types"),
        ("types none.json", "none.json: No such file or directory"),
        ("types open.json", "open.json is not JSON: Input data was truncated"),
        ("types deep.json", "deep.json is not JSON: "),
        ("types nowhere.json", f"nowhere.json {NO_USE} definition 'a': '#/$defs/b' refers to no definition"),
        ("client nowhere.json", f"nowhere.json {NO_USE} definition 'a': '#/$defs/b' refers to no definition"),
    ],
)
async def test_what_cannot_be_used(folder: Path, line: str, said: str) -> None:
    out, err = await run(folder, line, status=2)
    assert out == "" and err.count("\n") == 1
    assert err.startswith(f"wsrpc: {said}".replace("FOLDER", str(folder)))


@pytest.mark.parametrize(
    ("target", "first", "last"),
    [
        ("missing:server", "module 'missing' cannot be imported:", "No module named 'no_such_thing'"),
        ("divides:server", "module 'divides' cannot be imported:", "ZeroDivisionError: division by zero"),
        ("leaves:server", "module 'leaves' cannot be imported:", "SystemExit: 3"),
        ("app:make_trouble", "app:make_trouble() failed:", "OSError: no database"),
        ("app:add", "app:add() failed:", "missing 2 required positional arguments: 'a' and 'b'"),
    ],
)
async def test_an_application_that_fails_is_shown_where(folder: Path, target: str, first: str, last: str) -> None:
    out, err = await run(folder, f"types {target} -o api", status=2)
    lines = err.splitlines()
    assert out == "" and lines[0] == f"wsrpc: {first}" and lines[-1].endswith(last)
    assert not (folder / "api").exists()
    if first.startswith("module"):
        assert f'File "{folder / target.partition(":")[0]}.py", line 1' in err
        assert "loading.py" not in err and "importlib" not in err


async def test_half_a_surrogate_pair_keeps_nothing_from_being_written(folder: Path) -> None:
    text = r"""
        import msgspec
        from typing import Annotated, TypedDict
        from app import server
        Odd = TypedDict("Odd", {"k\ud83d": int})
        def odd(x: Annotated[int, msgspec.Meta(description="d\ud83d")], y: Odd, z: str = "\ud83d") -> None: ...
        server.on("odd ä", odd)
        """
    (folder / "odd.py").write_text(dedent(text), "utf-8")
    out, _ = await run(folder, "types odd:server")
    assert r'"odd \u00e4": (x: number, y: Odd, z?: string)' in out and '"k?": number' in out
    assert "d?" in (await run(folder, "types odd:server --json"))[0]
    await run(folder, "types odd:server -o events.d.ts")
    assert (folder / "events.d.ts").read_text("utf-8") == out
