"""The rules of `contract_diff`: what each change of a contract does to programs that still have the other version.

`change_at` makes the `Change` of a rule at a place.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Any, Literal, NamedTuple

import msgspec

Outcome = Literal["works", "fails", "meaning"]
"""What happens when the program of one version reads what a program of the other version has sent.

- ``"works"``: it reads what was meant.
- ``"fails"``: it raises an error, or the message is refused.
- ``"meaning"``: nothing fails, but a value is lost, has another name, or is replaced by a default.
"""
Kind = Literal["compatible", "breaks callers", "breaks handlers", "changes meaning"]


class Rule(NamedTuple):
    """One row of the table."""

    new_reads_old: Outcome
    """What a new program does with what an old one has sent."""
    old_reads_new: Outcome
    """What an old program does with what a new one has sent. For arguments, programs that read are handlers."""
    happens: str
    do: str


def kinds_of(old_caller: Outcome, new_caller: Outcome) -> tuple[Kind, ...]:
    """Return whom a change breaks: what happens to old callers of new handlers, and to new callers of old handlers."""
    found: dict[Kind, bool] = {
        "breaks callers": old_caller == "fails",
        "breaks handlers": new_caller == "fails",
        "changes meaning": "meaning" in (old_caller, new_caller),
    }
    return tuple(kind for kind, applies in found.items() if applies) or ("compatible",)


def _read(table: str) -> dict[str, Rule]:
    lines = (line for line in table.splitlines() if line and not line.startswith("#"))
    rows = ([cell.strip() for cell in line.split("|")] for line in lines)
    return {name: msgspec.convert(others, Rule) for name, *others in rows}


RULES = _read(files(__name__.rpartition(".")[0]).joinpath("change_rules.txt").read_text("utf-8"))
"""The rules by name, from ``change_rules.txt``."""


class Change(msgspec.Struct, frozen=True):
    """One change.

    Attributes:
        rule: the name of the rule in `RULES`.
        place: the event, and what of it: ``orders:create(order).lines[].sku`` is a field of an argument,
            ``order_list.result.next`` of a result.
        kinds: whom it breaks.
        old_caller: what happens if an old caller meets a new handler.
        new_caller: what happens if a new caller meets an old handler.
        old_peers: what happens if a new program meets peers of the old version.
        text: what happens.
        do: what to do instead.
        old: what has changed in the old description, such as a name or a schema. None if there is nothing.
        new: what it is in the new description.
    """

    rule: str
    place: str
    kinds: tuple[Kind, ...]
    old_caller: Outcome
    new_caller: Outcome
    old_peers: Outcome
    text: str
    do: str
    old: Any
    new: Any


Side = Literal["this program", "its peers"]
"""The described program, or the programs at the other ends of its connections, which were perhaps generated."""
OTHER_SIDE: dict[Side, Side] = {"this program": "its peers", "its peers": "this program"}


class Place(NamedTuple):
    """A place in a contract."""

    text: str
    handler: Side
    """Who handles the event."""
    reader: Side
    """Who reads the values there: the handler if they are arguments, and its caller if they are results."""

    @property
    def is_result(self) -> bool:
        return self.reader != self.handler

    def at(self, more: str) -> Place:
        """Return a place inside this one."""
        return self._replace(text=self.text + more)


def change_at(rule: str, place: Place, old: Any = None, new: Any = None) -> Change:
    row = RULES[rule]
    outcomes = (row.old_reads_new, row.new_reads_old) if place.is_result else (row.new_reads_old, row.old_reads_new)
    old_peers = outcomes[0 if place.handler == "this program" else 1]
    do = row.do.replace("eploy the handlers", f"eploy the handlers ({place.handler})")
    do = do.replace("eploy the readers", f"eploy the readers ({place.reader})")
    return Change(rule, place.text, kinds_of(*outcomes), *outcomes, old_peers, row.happens, do, old, new)
