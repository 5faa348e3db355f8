"""The command ``diff``, which compares two versions of a contract."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import click
import msgspec

from .._schema.change_rules import RULES, Change
from .._schema.contract_diff import compare
from ..codegen._checking import InvalidDescription
from ..errors import one_line
from .command_errors import REMOTE, UsageError
from .command_options import APP_DIR, HEADER, Options
from .description_request import written
from .loading import TARGETS, described
from .running import complain, print_text

MOST_SHOWN = 60
"""Characters of an old or new value up to which people see it."""
MOST_LISTED = 10
"""Places that are named in one line."""
PASSING = {"passes with --program-first": 1, "compatible": 2, "allowed": 3}
"""Headings of changes that do not fail, in their order after those that do."""


@click.command(epilog=f"OLD and NEW are each {TARGETS}")
@click.argument("old", type=click.Path(), nargs=-1, required=True)
@click.argument("new", type=click.Path())
@click.option(
    "--allow",
    metavar="RULE[:PLACE]",
    multiple=True,
    help="Accept changes of this rule, or only the one at this place. Can be repeated.",
)
@click.option("--program-first", is_flag=True, help="Fail only if a new program does not fit old peers.")
@click.option("--shared-classes", is_flag=True, help="Peers have the classes of the program, which check constraints.")
@click.option("--json", is_flag=True, help="Print a list of objects.")
@APP_DIR
@HEADER
def diff(**params: Any) -> int:
    """List what has changed in a contract from each OLD to NEW, and whom it breaks.

    Exit with 1 if a change breaks callers or handlers, or changes meaning.
    """
    options = Options(**params)
    if unknown := next((each for each in options.allow if each.partition(":")[0] not in RULES), None):
        raise UsageError(f"there is no rule {unknown.partition(':')[0]!r}")
    *olds, (new, _) = described([*options.old, options.new], options.header, folder=options.app_dir)
    changes: list[Change] = []

    def text() -> str:
        checked = options.shared_classes
        by_old = {name: compare(old, new, checked=checked) for name, (old, _) in zip(options.old, olds, strict=True)}
        changes.extend(chain(*by_old.values()))
        if options.json:
            rows = [{"from": name, **msgspec.structs.asdict(each)} for name, found in by_old.items() for each in found]
            return msgspec.json.format(msgspec.json.encode(rows), indent=2).decode()
        heading = "from {}:\n" if len(by_old) > 1 else ""
        lines = {name: "\n".join(_lines(found, options)) or "no changes" for name, found in by_old.items()}
        return "\n\n".join(heading.format(one_line(name, 200)) + text for name, text in lines.items())

    try:
        print_text(written(text) + "\n")
    except InvalidDescription as exc:
        raise UsageError(f"the descriptions cannot be compared: {exc}") from exc
    found = set[str]().union(*map(_names, changes))
    for unused in (each for each in dict.fromkeys(options.allow) if each not in found):
        rule = unused.partition(":")[0]
        elsewhere = _listed([shlex.quote(f"{rule}:{_place(each)}") for each in changes if each.rule == rule])
        complain(f"--allow {unused}: there is no such change{elsewhere and f', but {elsewhere}'}")
    return REMOTE if any(_heading(each, options) not in PASSING for each in changes) else 0


def _lines(changes: Sequence[Change], options: Options) -> Iterator[str]:
    """Yield the changes by whom they break: first those that change a meaning, which nobody notices."""
    groups: dict[str, list[Change]] = {}
    for change in changes:
        groups.setdefault(_heading(change, options), []).append(change)
    for heading in sorted(groups, key=lambda each: (PASSING.get(each, 0), "meaning" not in each, each)):
        yield f"{heading}:"
        for change in groups[heading]:
            yield f"  {_place(change)}: {change.rule}{_values(change)}. {change.text} {change.do}"
    failing = [_place(each) for heading, found in groups.items() if heading not in PASSING for each in found]
    if options.program_first and failing:
        yield f"{len(failing)} change{'s break' if len(failing) > 1 else ' breaks'} old peers: {_listed(failing)}"


def _heading(change: Change, options: Options) -> str:
    """Return the heading of a change, which says whether it fails."""
    if _names(change) & {*options.allow}:
        return "allowed"
    if options.program_first and change.old_peers == "works" and change.kinds != ("compatible",):
        return "passes with --program-first"
    return ", ".join(change.kinds)


def _listed(places: Sequence[str]) -> str:
    distinct = list(dict.fromkeys(places))
    further = f" and {len(distinct) - MOST_LISTED} more" if len(distinct) > MOST_LISTED else ""
    return ", ".join(distinct[:MOST_LISTED]) + further


def _names(change: Change) -> set[str]:
    """Return what ``--allow`` calls a change."""
    return {change.rule, f"{change.rule}:{_place(change)}"}


def _place(change: Change) -> str:
    return one_line(change.place, 200)


def _values(change: Change) -> str:
    """Return the old and the new value, if both are short. If only one version has something, it is a plain value."""
    values = change.old, change.new
    if values == (None, None) or (None in values and not any(isinstance(each, str | int | float) for each in values)):
        return ""
    shown = ["none" if each is None else msgspec.json.encode(each).decode() for each in values]
    return f" ({' -> '.join(shown)})" if max(map(len, shown)) <= MOST_SHOWN else ""
