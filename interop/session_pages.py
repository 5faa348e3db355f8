"""Plays sessions of a page's client in Node, on connections that ``js/page_session.mjs`` plays.

A row has steps, in order. ``9@drop`` is taken after 9 seconds, and ``drop`` at once. A ``+`` at the end says that the
next step is taken in the same turn. Numbers may follow, or texts, of which ``long`` is one of 3,000 characters.

- Steps of the server and the network: ``welcome`` (a session that resumes; ``welcome:4`` if it is kept for 4 seconds,
  ``welcome:none`` if it cannot resume), ``resumed:rx:bytes``, ``ack``, ``gone``, ``say:...`` (another control message),
  ``odd:type:field`` (with a field that cannot become a text), ``text:...``, ``drop``, ``shut:code`` (a Close frame),
  ``unsent:bytes``, ``hold`` and ``release`` (connections do not open), ``refuse`` and ``allow`` (they end at once).
- Steps of the page: ``open``, ``send:...``, ``many:count:size``, ``close:code:reason``, ``wake:...``, ``hide``,
  ``show``, ``wakes`` (as ``show``, and no timer has fired meanwhile), ``leave``, ``keep``, ``freeze``, ``thaw``, and
  ``clock:...``, which sets the clock by so many seconds.
- Steps that let time pass: ``next`` (another connection is open), ``dialed``, ``got:...`` (the server gets something),
  ``until:...`` (an event).
"""

from __future__ import annotations

import atexit
import json
import re
import shutil
import subprocess
import tempfile
from functools import cache
from typing import Any

from programs import printed_by, start

from interop.node import JS, find_node

BROWSER = JS.parent.parent / "browser"


@cache
def session_module() -> str:
    """Return the path of a module with what the modules for pages do not export: `Session`, and the page's events."""
    find_node()
    folder = tempfile.mkdtemp(prefix="wsrpc-session-")
    atexit.register(shutil.rmtree, folder)
    module = f"{folder}/session.mjs"
    command = ["node_modules/.bin/esbuild", "--bundle", "--format=esm", f"--outfile={module}"]
    exports = b'export * from "./src/session.js"; export * from "./src/page_events.js"'
    subprocess.run(command, cwd=BROWSER, input=exports, check=True, capture_output=True)
    return module


async def play(*rows: str) -> list[dict[str, Any]]:
    """Return for each row what the page and the server have seen.

    They are the ``events`` of the page, the ``state`` of the session, and what the server has got, by connections:
    ``wired``. ``log`` has all of it with seconds. ``resumes`` and ``offers`` are what was asked of the server.
    """
    command = [find_node(), "--expose-gc", str(JS / "page_session.mjs"), session_module()]
    steps = json.dumps([[_parsed(step) for step in row.split()] for row in rows])
    told = json.loads(await printed_by(await start(*command, steps)))
    assert told["uncaught"] == [] and {row["left"] for row in told["rows"]} == {0}, "timers are left"
    found: list[dict[str, Any]] = told["rows"]
    return found


def _parsed(step: str) -> list[Any]:
    at, _, call = step.rpartition("@")
    name, *parts = call.split(":", 1 if "text:" in call else -1)
    return [float(at) if at else None, name, *map(_value, parts)]


def _value(part: str) -> Any:
    if re.fullmatch(r"-?[\d.]+(e\d+)?", part):
        return float(part)
    key, _, value = part.partition("=")
    return {key: _value(value)} if re.fullmatch(r"\w+=\w+", part) else "x" * 3000 if part == "long" else part
