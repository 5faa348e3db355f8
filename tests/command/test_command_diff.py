"""`wsrpc diff` with programs, files and a server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_process import Ended, refusal, run

from wsrpc import Server

OLD = """
import msgspec
from wsrpc import Server

server = Server()

class Order(msgspec.Struct):
    unit: str
    note: str = ""

@server.of("orders").on("create")
def create(order: Order, timeout_s: int = 5) -> None: ...

@server.on("ping")
def ping() -> int: ...
"""
NEW = OLD.replace(" = 5", " = 6").replace('    note: str = ""\n', "").replace('"ping"', '"check"')
EVENTS = """\
breaks callers:
  ping: event-removed. Old callers still send the event. Remove it when no caller is left.
"""
MEANING = """\
changes meaning:
  orders:create(order).note: field-removed-optional. New handlers ignore it silently. Keep the field \
until no caller sends it.
  orders:create(timeout_s): default-changed (5 -> 6). Who omits the value gets the other default. Send it \
always, or add another.
"""
ADDED = "  check: event-added. Old handlers do not know the event. Deploy the handlers (this program) first.\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in {"old.py": OLD, "new.py": NEW, "bad.json": "{}"}.items():
        (tmp_path / name).write_text(text, "utf-8")
    return tmp_path


async def compared(folder: Path, line: str) -> Ended:
    return await run("diff", *line.split(), cwd=folder)


async def test_changes_are_listed_by_whom_they_break(folder: Path) -> None:
    out = f"{MEANING}{EVENTS}breaks handlers:\n{ADDED}"
    assert await compared(folder, "old:server new:server") == (1, out, "")


async def test_allowed_rules_come_last_and_do_not_fail(folder: Path) -> None:
    allowed = " ".join(f"--allow {rule}" for rule in ("event-removed", "default-changed", "field-removed-optional"))
    line = f"old:server new:server {allowed}"
    code, out, _ = await compared(folder, line)
    assert code == 1 and out.startswith(f"breaks handlers:\n{ADDED}allowed:\n  ping: event-removed.")
    assert (await compared(folder, f"{line} --allow event-added")).code == 0
    assert (await compared(folder, f"{line} --program-first")).code == 0  # old callers do not know the new event
    assert (await compared(folder, "old:server new:server --program-first")).code == 1


PASSES = f"passes with --program-first:\n{ADDED}"
FAIL = "ping, orders:create(order).note, orders:create(timeout_s)"


@pytest.mark.parametrize(
    ("line", "code", "out"),
    [
        ("", 1, f"{MEANING}{EVENTS}{PASSES}3 changes break old peers: {FAIL}\n"),
        (
            "--allow default-changed --allow field-removed-optional",
            *(1, f"{EVENTS}{PASSES}allowed:\n{MEANING.partition(chr(10))[2]}1 change breaks old peers: ping\n"),
        ),
        (
            "--allow event-removed --allow default-changed --allow field-removed-optional",
            *(0, f"{PASSES}allowed:\n{EVENTS.partition(chr(10))[2]}{MEANING.partition(chr(10))[2]}"),
        ),
    ],
)
async def test_with_the_program_first_the_output_says_which_changes_fail(
    folder: Path, line: str, code: int, out: str
) -> None:
    assert await compared(folder, f"old:server new:server --program-first {line}") == (code, out, "")


async def test_many_places_are_cut(folder: Path) -> None:
    numbered = "\n".join(f"server.on('e{number:02}', ping)" for number in range(12))
    (folder / "many.py").write_text(f"{OLD}\n{numbered}", "utf-8")
    code, out, err = await compared(folder, "many:server old:server --program-first --allow event-removed:e")
    ten = [f"e{number:02}" for number in range(10)]
    assert code == 1 and out.endswith(f"\n12 changes break old peers: {', '.join(ten)} and 2 more\n")
    assert err.endswith(f"no such change, but {', '.join(f'event-removed:{each}' for each in ten)} and 2 more\n")


@pytest.mark.parametrize(
    ("allowed", "code", "notes"),
    [
        ("event-removed:ping", 0, ""),
        ("event-removed:ping --allow event-removed", 0, ""),
        (
            "event-removed:check",
            1,
            "wsrpc: --allow event-removed:check: there is no such change, but event-removed:ping\n",
        ),
        ("event-removed:pi", 1, "wsrpc: --allow event-removed:pi: there is no such change, but event-removed:ping\n"),
        ("kind-changed", 1, "wsrpc: --allow kind-changed: there is no such change\n"),
    ],
)
async def test_one_change_is_allowed_at_its_place(folder: Path, allowed: str, code: int, notes: str) -> None:
    others = "default-changed:orders:create(timeout_s) --allow field-removed-optional:orders:create(order).note"
    ended = await compared(folder, f"old:server new:server --program-first --allow {others} --allow {allowed}")
    assert (ended.code, ended.err) == (code, notes)


async def test_the_note_quotes_a_place_for_the_shell(folder: Path) -> None:
    contract = "class Emitted(Protocol):\n    def ping(self) -> None: ..."
    emitting = f"{OLD}\nfrom typing import Protocol\n{contract}\nserver.declare(Emitted)\n"
    (folder / "emitting.py").write_text(emitting, "utf-8")
    ended = await compared(folder, "old:server emitting:server --allow emitted-event-added:ping")
    note = "there is no such change, but 'emitted-event-added:emits ping'"
    assert (ended.code, ended.err) == (1, f"wsrpc: --allow emitted-event-added:ping: {note}\n")


async def test_as_json(folder: Path) -> None:
    code, out, _ = await compared(folder, "old:server new:server --json")
    changes = json.loads(out)
    assert code == 1 and len(changes) == 4
    assert changes[3] == {
        "from": "old:server",
        "rule": "default-changed",
        "place": "orders:create(timeout_s)",
        "kinds": ["changes meaning"],
        "old_caller": "meaning",
        "new_caller": "meaning",
        "old_peers": "meaning",
        "text": "Who omits the value gets the other default.",
        "do": "Send it always, or add another.",
        "old": 5,
        "new": 6,
    }
    assert await compared(folder, "old:server old:server --json") == (0, "[]\n", "")


async def test_values_are_shown_if_both_versions_have_them_or_one_has_a_plain_value(folder: Path) -> None:
    def versions(unit: str, default: str) -> str:
        meta = f"msgspec.Meta(extra_json_schema={{{unit}}})"
        head = OLD.replace("import msgspec", "import msgspec\nfrom typing import Annotated")
        return f"{head}\n@server.on('f')\ndef f(a: Annotated[float | None, {meta}] = {default}) -> None: ..."

    (folder / "old.py").write_text(versions("'unit': 's'", "None"), "utf-8")
    (folder / "new.py").write_text(versions("", "1"), "utf-8")
    code, out, _ = await compared(folder, "old:server new:server")
    assert code == 1 and 'unit-removed ("s" -> none). ' in out and "default-changed (none -> 1). " in out


async def test_several_old_versions(folder: Path) -> None:
    code, out, _ = await compared(folder, "new:server old:server new:server")
    assert code == 1 and out.startswith("from new:server:\nno changes\n\nfrom old:server:\nchanges meaning:")
    code, out, _ = await compared(folder, "new:server old:server new:server --json")
    assert {each["from"] for each in json.loads(out)} == {"old:server"}
    assert (await compared(folder, "new:server new:server new:server")).code == 0


async def test_a_server_and_a_file(folder: Path) -> None:
    server = Server()
    server.offer_description()
    async with server.listen() as listener:
        await run("types", listener.url, "--json", "-o", "empty.json", cwd=folder)
        assert await compared(folder, f"empty.json {listener.url}") == (0, "no changes\n", "")
        code, out, _ = await compared(folder, f"{listener.url} new:server --header a:b")
        assert code == 1 and out == f"breaks handlers:\n{ADDED}" + ADDED.replace("check", "orders:create")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("old:server", "Missing argument 'OLD...'. (see wsrpc diff --help)"),
        ("old:server none.json", "none.json: No such file or directory"),
        ("bad.json new:server", "bad.json has no usable description: Object missing required field `events`"),
        ("old:server new:server --allow event-moved", "there is no rule 'event-moved'"),
        ("old:server new:server --allow event-moved:ping", "there is no rule 'event-moved'"),
        ("old:server new:server --header a:b", "--header is for the URL of a server"),
        ("old:server ws://127.0.0.1:1", "ws://127.0.0.1:1: could not connect: Connection refused"),
    ],
)
async def test_what_cannot_be_compared(folder: Path, line: str, said: str) -> None:
    assert await refusal(2, "diff", *line.split(), cwd=folder) == said
