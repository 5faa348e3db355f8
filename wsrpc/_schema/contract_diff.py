"""Comparison of two versions of a `Description`: each change of its events, parameters and types, by rules.

A schema is compared as a set of alternatives: ``int | str | None`` has three. The items of a tuple, and of a class that
is sent as an array, are compared like the fields of an object. A class is compared at each place where it is used.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import product, zip_longest
from typing import Any

import msgspec

from .._values.older_names import OLDER_NAMES
from .change_rules import OTHER_SIDE, Change, Kind, Outcome, Place, Side, change_at
from .definitions import UNIT, Schema
from .description import Description, EventSchema, ParameterSchema
from .schema_changes import (
    Field,
    Fields,
    constraint_changes,
    dict_and_class_changes,
    fields_of,
    is_closed,
    items_of,
    leaves_of,
    members_of,
    one_sided_changes,
    shown_leaf,
    type_changes,
    value_changes,
)

_MOST_PLACES = 20_000
"""Classes that are compared at each place where they are used. A hostile description has more paths than can be listed,
so later ones are compared once for each argument and result."""


def compare(old: Description, new: Description, *, checked: bool = False) -> list[Change]:
    """Return the changes from ``old`` to ``new``, each once: events first, then what is emitted.

    Args:
        checked: whether peers check constraints, because they have classes like those of the described program.
    """
    found: dict[tuple[str, str, tuple[Kind, ...], Outcome], Change] = {}
    for change in _Comparison(old, new, checked=checked).events(old, new):
        found.setdefault((change.rule, change.place, change.kinds, change.old_peers), change)
    return list(found.values())


_PARAMETER_RULES = {  # by whether the new version has it, and whether both send an event without a response
    (True, False): ("parameter-added", "parameter-added-optional"),
    (False, False): ("parameter-removed", "parameter-removed-optional"),
    (True, True): ("emitted-parameter-added", "emitted-parameter-added-optional"),
    (False, True): ("emitted-parameter-removed", "emitted-parameter-removed-optional"),
}
_Parameters = Sequence[ParameterSchema]
_Events = Description | EventSchema  # a program, or a conversation


class _Comparison:
    """Compares the events of two descriptions."""

    def __init__(self, old: Description, new: Description, *, checked: bool) -> None:
        self._checked = checked
        self._definitions = old.definitions, new.definitions
        self._compared: set[tuple[str, str, Any]] = set()
        """The pairs of definitions that are being compared, and those that contain such a pair."""
        self._places = 0
        self._is_cut = False

    def events(self, old: _Events, new: _Events, inside: str = "", handler: Side = "this program") -> Iterator[Change]:
        """Compare what two programs handle and emit, altogether or in one conversation.

        Args:
            handler: who has the handlers of ``events``. Those of ``emits`` are at the other side.
        """
        handlers = handler, OTHER_SIDE[handler]
        for side, before, after in zip(handlers, (old.events, old.emits), (new.events, new.emits), strict=True):
            olds, news = ({(each.channel or "", each.event): each for each in events} for events in (before, after))
            for key in sorted(olds.keys() | news.keys()):
                yield from self._event(olds.get(key), news.get(key), inside, side)

    def _event(self, old: EventSchema | None, new: EventSchema | None, inside: str, handler: Side) -> Iterator[Change]:
        either = new or old
        assert either is not None
        emits = handler == "its peers"
        text = _name(either)
        place = Place(f"{'emits ' if emits else ''}{inside}{text}", handler, reader=handler)
        sent = emits or bool(inside)
        unanswered = [sent and each is not None and each.kind == "value" and each.result is None for each in (old, new)]
        if old is None or new is None:
            unheard = emits and new is None  # nothing is sent that could fail, but old peers wait for it in vain
            if any(unanswered):
                rule = "emitted-event-added" if old is None else "emitted-event-removed"
            elif unheard:
                rule = "emitted-request-removed"
            else:
                rule = "event-added" if old is None else "event-removed"
            found = change_at(rule, place)
            if new is None and either.deprecated:
                text = f"{found.text} It was deprecated: {either.deprecated.rstrip('.')}."
                found = msgspec.structs.replace(found, text=text)
            yield msgspec.structs.replace(found, old_peers="meaning") if unheard else found
            return
        if new.deprecated and not old.deprecated:
            yield change_at("event-deprecated", place, None, new.deprecated)
        if new.keep != old.keep:
            if new.keep > old.keep:
                rule = "keep-extended" if old.keep else "keep-added"
            else:
                rule = "keep-shortened" if new.keep else "keep-removed"
            yield change_at(rule, place, old.keep, new.keep)
        named = not (emits or inside)  # a URL may have the names of arguments
        yield from self._parameters(old.parameters, new.parameters, place, unanswered=all(unanswered), named=named)
        if unanswered[0] != unanswered[1] and old.kind == new.kind:
            if {"type": "null"} in (old.result, new.result):
                return  # a handler of an event without a result answers null
            yield change_at("emit-to-request" if unanswered[0] else "request-to-emit", place)
        elif old.kind != new.kind:
            yield change_at("kind-changed", place, old.kind, new.kind)
        else:
            if old.events or old.emits:  # otherwise, nobody knows what travelled in the conversation before
                yield from self.events(old, new, f"{inside}{text}.", handler)
            for name in ("sends", "items", "result"):
                before, after = getattr(old, name), getattr(new, name)
                if name == "sends" and (before is None) != (after is None):
                    yield change_at("messages-added" if before is None else "messages-removed", place)
                if before is not None and after is not None:
                    at = Place(f"{place.text}.{name}", handler, handler if name == "sends" else OTHER_SIDE[handler])
                    self._compared.clear()
                    yield from self._schemas(before, after, at)

    # ------------------------------------------------------------ parameters

    def _parameters(
        self, old: _Parameters, new: _Parameters, place: Place, *, unanswered: bool, named: bool
    ) -> Iterator[Change]:
        renamed = "parameter-renamed" if named else "position-renamed"
        old_rest, new_rest = (next((each for each in side if each.rest), None) for side in (old, new))
        olds, news = ([each for each in side if not each.rest] for side in (old, new))
        names = [p.name for p in olds]
        known = _known([(q.name, q) for q in news], names)
        yield from _order(names, known, place, "({})", renamed)
        if named:
            before, after = (
                {p.name: Field({OLDER_NAMES: p.schema.get(OLDER_NAMES, ())}, False) for p in side}
                for side in (old, new)
            )
            yield from _older_names(before, after, place, "({})", "parameter-name-added", "parameter-name-added")
        few, many = sorted((names, known), key=len)
        # Further ones may be anywhere. One in the place of a name that is gone is perhaps that one.
        further = [name for n, name in enumerate(many) if name not in few and (n >= len(few) or few[n] in many)]
        unnamed = iter(further[len(few) - len(many) :])
        for p, q in zip_longest(olds, news):
            one, other = p or old_rest, q or new_rest
            last: Any = q or p
            at = place.at(f"({last.name if p and q else next(unnamed, last.name)})")
            has_rest = one is not None and other is not None
            if (p is None or q is None) and (named or not has_rest):
                yield change_at(_PARAMETER_RULES[p is None, unanswered][last.optional or has_rest], at, p, q)
            if one is None or other is None:
                continue
            if p is None or q is None:
                yield change_at("parameter-before-rest", at, one.name, other.name)
            needed = [each is not None and not each.optional for each in (p, q)]
            if needed[0] != needed[1]:
                yield change_at("parameter-required" if needed[1] else "parameter-optional", at)
            if one.optional and other.optional:
                yield from _defaults(one.schema, other.schema, at)
            self._compared.clear()
            yield from self._schemas(one.schema, other.schema, at)
        if old_rest is not None and new_rest is not None:
            at = place.at(f"(*{new_rest.name})")
            if named and old_rest.name != new_rest.name:
                yield change_at(renamed, at, old_rest.name, new_rest.name)
            yield from self._schemas(old_rest.schema, new_rest.schema, at)
        elif (rest := old_rest or new_rest) is not None:
            yield change_at(_PARAMETER_RULES[old_rest is None, unanswered][1], place.at(f"(*{rest.name})"))

    # ------------------------------------------------------------ types

    def _schemas(self, old: Schema, new: Schema, place: Place) -> Iterator[Change]:
        olds, news = (leaves_of(schema, found) for schema, found in zip((old, new), self._definitions, strict=True))
        for kind in ("object", "array"):
            mine, its = ([key for key in side if key[0] == kind] for side in (olds, news))
            if len(mine) == len(its) == 1:  # they are compared even if their tags differ
                olds[kind, None], news[kind, None] = olds.pop(mine[0]), news.pop(its[0])
        is_union = len({key for key in {**olds, **news} if key[0] == "object"}) > 1
        yield from type_changes(olds, news, place)
        for key in [key for key in olds if key in news]:
            one, other = olds[key], news[key]
            if key[0] != "null":  # null has no unit, whatever is written beside it
                yield from _units(one.schema, other.schema, place)
            at = place.at(f"<{shown_leaf(key, other)}>") if is_union and key[0] == "object" else place
            pair = one.name, other.name, key
            if not (one.name and other.name):
                yield from self._alike(one.schema, other.schema, at, key[0])
            elif pair in self._compared:
                self._is_cut = True
            else:
                self._compared.add(pair)
                self._places += 1
                before, self._is_cut = self._is_cut, self._places > _MOST_PLACES
                yield from self._alike(one.schema, other.schema, at, key[0])
                if not self._is_cut:
                    self._compared.remove(pair)
                self._is_cut = self._is_cut or before

    def _alike(self, old: Schema, new: Schema, place: Place, kind: str) -> Iterator[Change]:
        """Compare two schemas for values of one type."""
        olds, news = members_of(old), members_of(new)
        if olds is not None and news is not None:
            yield from value_changes(olds, news, place)
        elif olds is not news:
            yield change_at("type-narrowed" if olds is None else "type-widened", place, old, new)
        yield from constraint_changes(old, new, place, checked=self._checked or place.reader == "this program")
        if kind not in ("array", "object"):
            return
        unique = bool(new.get("uniqueItems"))
        if bool(old.get("uniqueItems")) != unique:
            yield change_at("list-to-set" if unique else "set-to-list", place)
        named, others = ("prefixItems", "items") if kind == "array" else ("properties", "additionalProperties")
        if named in old and named in new:
            yield from self._fields(old, new, place)
        else:
            if (named in old) != (named in new):
                yield from dict_and_class_changes(old, new, place, named)
            # Each item of a tuple with that of a list, or each field of a class with the values of a dict.
            at = place.at("[]" if kind == "array" else "{}")
            for one, other in product(*(items_of(side, named, others) for side in (old, new))):
                yield from self._schemas(one, other, at)

    def _fields(self, old: Schema, new: Schema, place: Place) -> Iterator[Change]:
        olds, news = fields_of(old), fields_of(new)
        if "prefixItems" in old:
            one, other = ([each.schema.get("title", name) for name, each in side.items()] for side in (olds, news))
            pairs = [*zip(other, news.values(), strict=True)]
            yield from _order(one, _known(pairs, one), place, ".{}", "position-renamed")
        else:
            if place.reader == "this program":
                yield from _older_names(olds, news, place, ".{}", "older-name-added", "older-name-added-optional")
                news = dict(zip(_known([*news.items()], olds), news.values(), strict=True))
        for name in {**olds, **news}:
            p, q = olds.get(name), news.get(name)
            last: Any = q or p
            at = place.at(f".{last.schema.get('title', name) if 'prefixItems' in old else name}")
            if p is None or q is None:
                yield from one_sided_changes(p, q, at, refused=is_closed(old if p is None else new))
                continue
            if p.constant and q.constant:
                if p.schema["enum"] != q.schema["enum"]:
                    yield change_at("tag-changed", at, p.schema["enum"], q.schema["enum"])
                continue
            if q.deprecated and not p.deprecated:
                yield change_at("field-deprecated", at)
            if p.may_be_absent and not q.may_be_missed:
                yield change_at("field-required", at)
            if q.may_be_absent and not p.may_be_missed:
                yield change_at("field-optional", at)
            if (p.may_be_absent or q.may_be_absent) and p.may_be_missed and q.may_be_missed:
                yield from _defaults(p.schema, q.schema, at)
            yield from self._schemas(p.schema, q.schema, at)


# ---------------------------------------------------------------- names and defaults


def _name(event: EventSchema) -> str:
    return (f"{event.channel}:" if event.channel else "") + event.event


def _known(news: Sequence[tuple[str, Field | ParameterSchema]], olds: Collection[str]) -> list[str]:
    """Return the name that the old version has for each field or parameter: its own, or an older one that is free."""
    free = {*olds} - {name for name, _ in news}
    return [
        name if name in olds else next((each for each in new.schema.get(OLDER_NAMES, ()) if each in free), name)
        for name, new in news
    ]


def _older_names(
    olds: Fields, news: Fields, place: Place, at: str, added: str, added_optional: str
) -> Iterator[Change]:
    for (name, field), known in zip(news.items(), _known([*news.items()], olds), strict=True):
        if (before := olds.get(known)) is None:
            continue
        if known != name:
            rule = added_optional if before.may_be_missed else added
            yield change_at(rule, place.at(at.format(name)), known, name)
        for lost in before.schema.get(OLDER_NAMES, ()):
            if lost not in (*news, *field.schema.get(OLDER_NAMES, ())):
                yield change_at("older-name-removed", place.at(at.format(lost)))


def _order(old: Sequence[str], new: Sequence[str], place: Place, at: str, renamed: str) -> Iterator[Change]:
    """Compare the names of values that are sent by position."""
    if moved := [name for name in old if name in new and old.index(name) != new.index(name)]:
        yield change_at("positions-reordered", place.at(at.format(", ".join(moved))), list(old), list(new))
    for before, after in zip(old, new, strict=False):
        if before != after and before not in new and after not in old:
            yield change_at(renamed, place.at(at.format(after)), before, after)


def _units(old: Schema, new: Schema, place: Place) -> Iterator[Change]:
    before, after = (side.get(UNIT) for side in (old, new))
    if before != after:
        rule = "unit-declared" if before is None else "unit-removed" if after is None else "unit-changed"
        yield change_at(rule, place, before, after)


def _defaults(old: Schema, new: Schema, place: Place) -> Iterator[Change]:
    if ("default" in old) != ("default" in new) or old.get("default") != new.get("default"):
        yield change_at("default-changed", place, old.get("default"), new.get("default"))
