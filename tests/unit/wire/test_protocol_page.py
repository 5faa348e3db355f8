"""docs/reference/protocol.md: every kind of ignored message, and every control message with its fields, has its row."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import msgspec

from wsrpc._core.wire import control
from wsrpc._core.wire.control import BATCHES, CONTEXT, CREDIT, DRAIN, MSGPACK, PARTS, PROBE, RESUME

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "reference" / "protocol.md").read_text("utf-8")
PEER = ("_core.channels", "_core.handlers", "_core.peer", "_core.sending", "_core.session", "_core.inboxes")
"""The packages that count ignored messages of a peer."""
COUNTED = re.compile(
    r'ignored\["([^"]+)"\] \+='
    r'|\.ignore\("([^"]+)"\)'
    r'|\.count\("([^"]+)", '
    r'|\.count_refused\("([^"]+)", '
    r'|_count\("([^"]+)", '
    r'|(?:BadArguments|UnknownEvent): "([^"]+)"'
    r'|_refuse\(message, "([^"]+)", '
    r'|_drop_undecoded\([^"]*"([^"]+)", '
    r'|^(?:NOT_TEXT|TOO_DEEP|TOO_MANY_VALUES) = "([^"]+)"',
    re.MULTILINE,
)


def section(heading: str) -> str:
    return re.split(r"^##+ ", PAGE.partition(f"# {heading}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]


def test_the_page_has_every_kind_of_ignored_message() -> None:
    sources = "".join(
        path.read_text("utf-8")
        for name in PEER
        for path in sorted((ROOT / "wsrpc" / name.replace(".", "/")).glob("*.py"))
    )
    counted = {kind for found in COUNTED.findall(sources) for kind in found if kind}
    assert len(counted) > 20
    rows = re.findall(r"^\| ((?:`[^`]+`(?:, )?)+) \|", section("Ignored messages"), re.MULTILINE)
    shown = [kind for row in rows for kind in re.findall(r"`([^`]+)`", row) if kind != "peer.ignored"]
    assert sorted(shown) == sorted(counted), "each once"


def test_the_page_has_every_control_message_with_its_fields() -> None:
    rows = re.findall(
        r"^\| `(\w\w+)` \| ([^|]+) \|", section("Extensions") + section("Session resumption"), re.MULTILINE
    )
    shown: dict[str, set[str]] = {}
    for name, fields in rows:
        inherited = shown["hello"] if "those of `hello`" in fields else set[str]()
        shown.setdefault(name, set()).update(set(re.findall(r"`(\w+)`", fields)) - {"hello"} | inherited)
    true = {
        cls.__struct_config__.tag: {field.encode_name for field in msgspec.structs.fields(cls)}
        for cls in get_args(control.Control)
    }
    assert shown == true


def test_the_page_has_every_feature() -> None:
    [sentence] = re.findall(r"The features are (.+?)\.", PAGE)
    features = {BATCHES, CONTEXT, CREDIT, DRAIN, MSGPACK, PARTS, PROBE, RESUME}
    assert set(re.findall(r"`(\w+)`", sentence)) == features
