"""Tables of the docs that are made from the code, or from what tests look up or have recorded."""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from textwrap import dedent
from typing import Any

from interop import matrix
from wsrpc import errors
from wsrpc._client import client_states
from wsrpc._core.channels import channel_states
from wsrpc._core.handlers.invocation import CallState
from wsrpc._core.sending.pending import RequestState
from wsrpc._core.sending.places import PLACES, Place, Scope
from wsrpc._core.session import session_states
from wsrpc._schema import change_rules
from wsrpc._server import server_states

sys.path.extend(str(Path(__file__).parents[1] / "tests" / folder) for folder in ("unit", "adapters"))
from hosts import ABILITIES, HOSTS
from stream_ends import STREAM_ENDS
from type_table import ROWS

PYPROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _code(text: str) -> str:
    return f"`{text}`" if text.endswith(")") else text


def _state(state: str | Enum) -> str:
    if isinstance(state, session_states.SessionState):
        return f"`{state.text}`"
    return f"`{state.value if isinstance(state, Enum) else state}`"


def states(cells_of: Mapping[Any, Mapping[Any, tuple[Any, str]]]) -> str:
    """The cells of a table of states by their event: one row for all states in which the same happens."""
    found: dict[str, dict[tuple[str, str], list[str]]] = {}
    for state, cells in cells_of.items():
        for happened, (after, action) in cells.items():
            same = found.setdefault(_code(happened.value), {})
            same.setdefault(("the same" if after == state else _state(after), action), []).append(_state(state))
    rows = [
        [event, ", ".join(before), after, action]
        for event, same in found.items()
        for (after, action), before in same.items()
    ]
    return table(["event", "state", "next state", "action"], rows)


def places() -> str:
    """A row for each state of a session, a column for each scope."""
    places = "\n".join(f"- `{place.name}`: {place.value}." for place in Place)
    rows = [
        [
            f"`{state.name}`: {state.value}",
            *("fails" if (place := cells[scope]) is None else f"`{place.name}`" for scope in Scope),
        ]
        for state, cells in PLACES.items()
    ]
    columns = ["state of the session", *(f"belongs to {scope.value}" for scope in Scope)]
    return f"{table(columns, rows)}\n\n{places}"


def stream_ends() -> str:
    """A row for each way in which a stream ends."""
    columns = ["how a stream ends", "the reader gets", "raised in the handler", "raised in middleware"]
    columns += ["what is sent", "channel at the reader", "channel at the handler"]
    rows = [
        [
            *("" if text is None else text for text in (row.how, row.reader, row.handler, row.middleware, row.wire)),
            *("" if state is None else f"`{state.value}`" for state in (row.reader_side, row.handler_side)),
        ]
        for row in STREAM_ENDS
    ]
    return table(columns, rows)


def calls() -> str:
    """A row for each state of a call, a column for each question."""
    columns = ["state of a call", "counts as", "bytes of", "remote peer waits", "may be answered", "cancelled"]
    rows = [
        [
            f"`{state.name}`: {state.meaning}",
            *(f"a {found}" if found else "" for found in (state.counts_as, state.bytes_of)),
            *("yes" if found else "" for found in (state.awaited, state.answerable, state.cancelled)),
        ]
        for state in CallState
    ]
    return table(columns, rows)


def requests() -> str:
    """A row for each state of a request, a column for each question."""
    columns = ["state of a request", "if it fails now, `outcome` is", "is in flight", "its bytes are"]
    rows = [
        [
            f"`{state.name}`: {state.meaning}",
            "" if state.outcome is None else f'`"{state.outcome}"`',
            *("yes" if found else "" for found in (state.counts, state.bytes_count)),
        ]
        for state in RequestState
    ]
    return table(columns, rows)


def sessions() -> str:
    """A row for each state of a session, a column for each question."""
    columns = ["state", "meaning", "connection", "messages", "can resume"]
    rows = [
        [
            f"`{state.text}`",
            state.meaning,
            state.connection or "",
            "leave" if state.sends else "wait" if state.waits else "fail",
            "yes" if state.resumes else "",
        ]
        for state in session_states.SessionState
    ]
    return table(columns, rows)


def error_tree() -> str:
    """The drawing in the docstring of the module."""
    drawn = (errors.__doc__ or "").partition("::\n\n")[2].partition("\n\n")[0]
    return f"```text\n{dedent(drawn)}\n```"


def fitting_values() -> str:
    rows = [
        [
            (row.called or f"`{row.code}`").replace("|", "\\|"),
            f"`{json.dumps(row.right)}`",
            f"`{json.dumps(row.wrong)}`",
        ]
        for row in ROWS
    ]
    return table(["annotation", "fits", "is refused"], rows)


def abilities() -> str:
    """A row for each ability that a host lacks, with what happens instead; before it, those that all hosts have."""
    rows = []
    for one, text in ABILITIES.items():
        instead = dict.fromkeys(host.cannot[one] for host in HOSTS if one in host.cannot)
        for note in instead:
            lacking = ", ".join(f"`{host.name}`" for host in HOSTS if host.cannot.get(one) == note)
            rows.append([text if note == next(iter(instead)) else "", lacking, note])
    common = "\n".join(f"- {text}" for one, text in ABILITIES.items() if not any(one in host.cannot for host in HOSTS))
    return f"{common}\n\n{table(['ability', 'missing under', 'what happens instead'], rows)}"


def supported_versions() -> str:
    """What pyproject.toml allows: Python by its classifiers, and the dependencies of wsrpc and of each extra."""
    project = tomllib.loads(PYPROJECT.read_text("utf-8"))["project"]
    prefix = "Programming Language :: Python :: 3."
    pythons = [line.removeprefix(prefix) for line in project["classifiers"] if line.startswith(prefix)]
    rows = [["CPython", f"3.{pythons[0]} to 3.{pythons[-1]}", ""]]
    extras = {extra: names for extra, names in project["optional-dependencies"].items() if extra != "all"}
    for extra, required in {"": project["dependencies"], **extras}.items():
        for requirement in required:
            name, _, lowest = requirement.partition(">=")
            rows.append([name, f"{lowest} or later", f"the extra `{extra}`" if extra else "always"])
    return table(["package", "versions", "needed for"], rows)


def changes(*, of_types: bool) -> str:
    """A row for each rule of `wsrpc diff`: those for events and parameters, or those for types and fields."""
    names = list(change_rules.RULES)
    chosen = names[names.index("type-changed") :] if of_types else names[: names.index("type-changed")]
    columns = ["new program reads old values", "old program reads new values"]
    columns = columns if of_types else ["old caller, new handler", "new caller, old handler"]
    outcomes = {"works": "works", "fails": "fails", "meaning": "**other meaning**"}
    rows = [
        [f"`{name}`", outcomes[rule.new_reads_old], outcomes[rule.old_reads_new], rule.happens, rule.do]
        for name in chosen
        for rule in [change_rules.RULES[name]]
    ]
    return table(["rule", *columns, "what happens", "what to do"], rows)


MAKERS: dict[str, Callable[[], str]] = {
    "states of clients": lambda: states(client_states.TABLE),
    "states of servers": lambda: states(server_states.TABLE),
    "what states of sessions mean": sessions,
    "states of sessions": lambda: states(session_states.TABLE),
    "states of channels": lambda: states(channel_states.TABLE),
    "states of mailboxes": lambda: states(channel_states.MAILBOX),
    "how streams end": stream_ends,
    "where a message goes": places,
    "states of calls": calls,
    "states of requests": requests,
    "tree of errors": error_tree,
    "values that fit types": fitting_values,
    "abilities of adapters": abilities,
    "changes of events": lambda: changes(of_types=False),
    "changes of types": lambda: changes(of_types=True),
    "supported versions": supported_versions,
    "compatibility": lambda: matrix.table(matrix.load()),
}
"""The tables by their names, which pages say in ``<!-- made by make tables: NAME -->``."""
