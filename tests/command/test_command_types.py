"""`python -m wsrpc types`, run as its users run it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent

APP = """
from wsrpc import Client, Router, Server

server = Server()

@server.on("add")
def add(a: int, b: int) -> int:
    return a + b

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


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text(APP, "utf-8")
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "__init__.py").write_text("", "utf-8")
    (tmp_path / "pack" / "main.py").write_text("from app import server\n", "utf-8")
    return tmp_path


def run(folder: Path, *arguments: str, status: int = 0) -> tuple[str, str]:
    """What it prints to stdout and stderr."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "wsrpc", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == status, done.stderr
    return done.stdout, done.stderr


def failure(folder: Path, target: str) -> str:
    out, err = run(folder, "types", target, "-o", "events.d.ts", status=2)
    assert out == "" and err.startswith("wsrpc: ") and not (folder / "events.d.ts").exists()
    return err.removeprefix("wsrpc: ").rstrip("\n")


@pytest.mark.parametrize(
    ("target", "event"),
    [
        ("app:server", "add: (a: number, b: number) => number"),
        ("pack.main:server", "add: (a: number, b: number) => number"),
        ("app:make_server", "made: () => unknown"),
        ("app:Holder.router", "held: () => unknown"),
        ("app:client", "getName: () => unknown"),
    ],
)
def test_what_can_be_named(folder: Path, target: str, event: str) -> None:
    out, err = run(folder, "types", target)
    assert f"  {event}\n" in out and err == ""


def test_to_a_file_and_whether_that_is_up_to_date(folder: Path) -> None:
    file = folder / "events.d.ts"
    check = ["types", "app:server", "-o", "events.d.ts", "--check"]
    assert run(folder, *check, status=1) == ("", "wsrpc: events.d.ts is not up to date\n")
    assert not file.exists()
    assert run(folder, "types", "app:server", "-o", "events.d.ts") == ("", "")
    assert file.read_text("utf-8") == run(folder, "types", "app:server")[0]
    assert run(folder, *check) == ("", "")
    file.write_text(file.read_text("utf-8").replace("number", "string"), "utf-8")
    assert run(folder, *check, status=1)[1] == "wsrpc: events.d.ts is not up to date\n"
    assert "string" in file.read_text("utf-8")


def test_for_a_version_of_ws_wrapper(folder: Path) -> None:
    text = 'from collections.abc import Iterator\n@server.on("menu")\ndef menu() -> Iterator[str]:\n    yield "tea"\n'
    (folder / "app.py").write_text(APP + text, "utf-8")
    out, _ = run(folder, "types", "app:server", "--ws-wrapper", "3")
    assert "add: (" in out and "menu" not in out and "signal: never" in out
    assert "menu: () => Items<string>" in run(folder, "types", "app:server")[0]
    assert run(folder, "types", "app:server", "--ws-wrapper", "4") == run(folder, "types", "app:server")
    both = run(folder, "types", "app:server", "--ws-wrapper", "3", "--json", status=2)
    assert both == ("", "wsrpc: --ws-wrapper is for TypeScript: leave out --json\n")


def test_as_json(folder: Path) -> None:
    [event] = json.loads(run(folder, "types", "app:server", "--json")[0])["events"]
    assert event["event"] == "add" and event["result"] == {"type": "integer"}


def test_what_is_not_described_is_said(folder: Path) -> None:
    text = "server.of('math').on('root', lambda number: 1j)\nserver.on('odd', lambda: 1)\ndef odd() -> complex: ...\n"
    (folder / "app.py").write_text(APP + text + "server.of('math').on('odd', odd)\n", "utf-8")
    out, err = run(folder, "types", "app:server")
    assert err == "wsrpc: math:odd: result: complex has no JSON Schema\n" and "odd: () => unknown" in out


def test_a_program_that_ends_in_run_is_described_and_does_not_serve(folder: Path) -> None:
    (folder / "app.py").write_text(APP + "server.run('127.0.0.1', 8080)\n", "utf-8")
    assert "add: (a: number" in run(folder, "types", "app:server")[0]


def test_what_is_not_there(folder: Path) -> None:
    assert failure(folder, "apps:server") == f"there is no module 'apps', in {folder} or installed"
    assert failure(folder, "pack.other:server") == f"there is no module 'pack.other', in {folder} or installed"
    assert failure(folder, "nopack.main:server") == f"there is no module 'nopack', in {folder} or installed"
    assert failure(folder, "app:sever") == "'app' has no 'sever'; it has app:client, app:server"
    assert failure(folder, "pack:server") == "'pack' has no 'server'"


@pytest.mark.parametrize("target", ["app", "app:", ":server"])
def test_targets_that_name_nothing(folder: Path, target: str) -> None:
    wanted = "give a module and a name in it, such as app:server, a .json file or a ws:// URL"
    assert failure(folder, target) == f"{wanted}; got {target!r}"


@pytest.mark.parametrize("target", ["app.py:server", "pack/main:server"])
def test_files_are_no_modules(folder: Path, target: str) -> None:
    assert failure(folder, target) == f"give a module, such as app.main:server, not a file; got {target!r}"


@pytest.mark.parametrize(
    ("target", "text"),
    [
        ("app:number", "app:number must be a Server, Client or Router, or a function that returns one; it is 1"),
        ("app:make_nothing", "app:make_nothing() must return a Server, Client or Router; it returned None"),
        (
            "app:make_later",
            "app:make_later is async: name a Server, Client or Router, or a plain function that returns one",
        ),
    ],
)
def test_what_is_no_server(folder: Path, target: str, text: str) -> None:
    assert failure(folder, target) == text


def test_an_application_that_fails_is_shown_where_it_does(folder: Path) -> None:
    for text, error in (
        ("import no_such_thing", "ModuleNotFoundError: No module named 'no_such_thing'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("def broken(:", "SyntaxError: invalid syntax"),
        ("raise SystemExit(3)", "SystemExit: 3"),
    ):
        (folder / "broken.py").write_text(f"{text}\n", "utf-8")
        said = failure(folder, "broken:server")
        assert said.startswith("module 'broken' cannot be imported:\n") and said.splitlines()[-1] == error
        assert f'File "{folder / "broken.py"}", line 1' in said and "loading.py" not in said and "importlib" not in said
    said = failure(folder, "app:make_trouble")
    assert said.startswith("app:make_trouble() failed:\n") and said.endswith("OSError: no database")
    said = failure(folder, "app:add")
    assert said.startswith("app:add() failed:\n") and "missing 2 required positional arguments" in said


def test_what_cannot_be_written(folder: Path) -> None:
    target = folder / "none" / "events.d.ts"
    assert run(folder, "types", "app:server", "-o", str(target), status=2) == (
        "",
        f"wsrpc: {target}: No such file or directory\n",
    )
    assert "--check compares with a file" in run(folder, "types", "app:server", "--check", status=2)[1]
    assert "Missing command." in run(folder, status=2)[1]


def test_what_the_application_prints_is_not_in_the_file(folder: Path) -> None:
    (folder / "noisy.py").write_text(
        "print('starting')\nfrom app import server\ndef make():\n    print('made')\n    return server\n", "utf-8"
    )
    expected, _ = run(folder, "types", "app:server")
    assert run(folder, "types", "noisy:make") == (expected, "starting\nmade\n")


def test_half_a_surrogate_pair_keeps_nothing_from_being_written(folder: Path) -> None:
    (folder / "odd.py").write_text(
        "import msgspec\nfrom typing import Annotated, TypedDict\nfrom app import server\n"
        'Odd = TypedDict("Odd", {"k\\ud83d": int})\n'
        'def odd(x: Annotated[int, msgspec.Meta(description="d\\ud83d")], y: Odd, z: str = "\\ud83d") -> None: ...\n'
        'server.on("odd ä", odd)\n'
        "try:\n    server.on('a\\ud83d', lambda: None)\nexcept ValueError as exc:\n    print(exc)\n",
        "utf-8",
    )
    refused = "an event's name is text that can be sent, got 'a\\ud83d', which has half of a surrogate pair\n"
    out, err = run(folder, "types", "odd:server")
    assert r'"odd \u00e4": (x: number, y: Odd, z?: string)' in out and '"k?": number' in out and err == refused
    assert "d?" in run(folder, "types", "odd:server", "--json")[0]
    run(folder, "types", "odd:server", "-o", "events.d.ts")
    assert (folder / "events.d.ts").read_text("utf-8") == out


def test_a_file_that_is_no_text_is_not_up_to_date(folder: Path) -> None:
    (folder / "events.d.ts").write_bytes(b"\xff\xfe")
    _, err = run(folder, "types", "app:server", "-o", "events.d.ts", "--check", status=1)
    assert err == "wsrpc: events.d.ts is not up to date\n"
