"""A module of wsrpc imports only from lower floors; adapters import only what is public."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# Lowest first. Inserting a floor moves those above it up by one.
FLOORS: list[list[str]] = [
    [
        "errors",
        "limits",
        "stats",
        "_close",
        "_counting",
        "_definitions",
        "_events",
        "_frames",
        "_headers",
        "_health",
        "_introspect",
        "_key",
        "_messages",
        "_misuse",
        "_news",
        "_ports",
        "_proxies",
        "_pydantic",
        "_scheduler",
        "_strategies",
        "_turns",
        "_types",
        "_unread",
        "_url",
    ],
    ["_survey"],
    ["_validation"],
    ["_convert"],
    [
        "transport",
        "_arguments",
        "_codec",
        "_extension",
        "_heartbeat",
        "_inbox",
        "_log",
        "_models",
        "_outbox",
        "_rejections",
        "_requests",
        "_results",
        "_sendable",
        "_typescript",
    ],
    [
        "handshake",
        "_backlog",
        "_go",
        "_json_types",
        "_line",
        "_notices",
        "_reading",
        "_session",
        "_signature",
        "_unframer",
    ],
    [
        "stream",
        "_arrivals",
        "_dial_request",
        "_feed",
        "_kept",
        "_origins",
        "_payloads",
        "_places",
        "_retry",
        "_settings",
    ],
    ["_caller", "_context", "_entrance"],
    ["_channel_caller", "_registry"],
    ["router", "_lifecycle", "_suggestions"],
    ["anonymous", "channel", "_outbound", "_reporter", "_returns"],
    ["_asking", "_behind", "_channels", "_raw_caller", "_source", "_waiting"],
    ["raw", "_agreement", "_invoke", "_producer", "_readers"],
    ["_admission", "_answers", "_opening", "_raw_serving"],
    ["_serving"],
    ["_calls"],
    ["_intake"],
    ["_binding"],
    ["peer", "websocket"],
    ["service", "_backoff", "_broadcast", "_client_state", "_connection", "_draining", "_wake"],
    ["rooms", "_dial", "_hosting", "_listener", "_server_channel"],
    ["_dialing", "_listening", "_roster", "_upgrade"],
    ["_run"],
    ["adapting", "client", "server"],
    ["schema", "testing", "_loading"],
    ["typescript"],
    ["__init__", "__main__"],
]
FLOOR_OF = {module: number for number, floor in enumerate(FLOORS) for module in floor}


# What users read off `ctx.peer` and the like must have its type; nothing of it is there at run time.
FOR_TYPES_ONLY = {
    ("_context", "wsrpc.peer.Peer"),
    ("peer", "wsrpc.rooms.Membership"),
    ("peer", "wsrpc.rooms.Room"),
    ("_context", "wsrpc.server.Server"),
    ("peer", "wsrpc.server.Server"),
    ("raw", "wsrpc.server.Server"),
    ("rooms", "wsrpc.server.Server"),
    ("service", "wsrpc.server.Server"),
    ("service", "wsrpc._server_channel.ServerChannel"),
    ("_context", "wsrpc.anonymous.AnonymousChannel"),
    ("_caller", "wsrpc.anonymous.AnonymousChannel"),
    ("_channel_caller", "wsrpc.anonymous.AnonymousChannel"),
}


def room_of(path: Path) -> str:
    """The table's name for a file: a package inside wsrpc counts as one room."""
    return path.relative_to(ROOT / "wsrpc").parts[0].removesuffix(".py")


def imports_of(path: Path, package_root: Path) -> Iterator[tuple[int, str]]:
    """Each import of a file as (line, absolute dotted name), those inside functions and type-only blocks too.

    ``from a import b`` gives ``a.b``, because ``b`` may be a module.
    """
    package = path.relative_to(package_root).parent.parts
    for node in ast.walk(ast.parse(path.read_text("utf-8"), str(path))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = list(package[: len(package) - node.level + 1]) if node.level else []
            base = ".".join(start + ([node.module] if node.module else []))
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def room_imported(name: str) -> str | None:
    """The room of wsrpc that an imported name lies in, or None for a name from elsewhere."""
    first, _, rest = name.partition(".")
    room = rest.partition(".")[0]
    if first != "wsrpc":
        return None
    folder = ROOT / "wsrpc"
    is_module = room in FLOOR_OF or (folder / f"{room}.py").exists() or (folder / room).is_dir()
    return room if room and is_module else "__init__"


def files(folder: str) -> list[Path]:
    found = sorted((ROOT / folder).rglob("*.py"))
    assert found, f"no modules in {folder}"
    return found


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", files("wsrpc"), ids=name_of)
def test_a_module_imports_only_from_lower_floors(path: Path) -> None:
    room = room_of(path)
    assert room in FLOOR_OF, f"{name_of(path)} has no floor: give it one in this file and in the docs"
    climbs = [
        f"{name_of(path)}:{line} (floor {FLOOR_OF[room]}) imports {name} (floor {FLOOR_OF.get(target)})"
        for line, name in imports_of(path, ROOT)
        if (target := room_imported(name)) is not None
        and not FLOOR_OF.get(target, len(FLOORS)) < FLOOR_OF[room]
        and not (target == room and path.parent.name == room)
        and (room, name) not in FOR_TYPES_ONLY
    ]
    assert not climbs, "\n".join(climbs)


def test_the_table_in_the_docs_names_what_exists_and_its_floors() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \|", page, re.MULTILINE)
    assert {room: int(floor) for floor, room in rows} == FLOOR_OF
    assert len(rows) == len(FLOOR_OF)
    assert FLOOR_OF.keys() == {room_of(path) for path in files("wsrpc")}


@pytest.mark.parametrize("path", files("wsrpc"), ids=name_of)
def test_wsrpc_never_imports_an_adapter(path: Path) -> None:
    assert not [name for _, name in imports_of(path, ROOT) if name.partition(".")[0] == "wsrpc_adapters"]


@pytest.mark.parametrize("path", files("adapters"), ids=name_of)
def test_an_adapter_imports_only_public_names(path: Path) -> None:
    names = [name for _, name in imports_of(path, ROOT / "adapters") if name.partition(".")[0] == "wsrpc"]
    private = [name for name in names if any(part.startswith("_") for part in name.split("."))]
    assert not private, f"{name_of(path)} imports {', '.join(private)}"
