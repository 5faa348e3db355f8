"""Comparison of two versions of a `Description`: each change of its events, parameters and types, by rules.

A schema is compared as a set of alternatives: ``int | str | None`` has three. The items of a tuple, and of a class that
is sent as an array, are compared like the fields of an object. A class is compared at each place where it is used.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator, Sequence
from itertools import product, zip_longest
from typing import Any, NamedTuple

import msgspec

from .._values.older_names import OLDER_NAMES
from .change_rules import RULES, Kind, Outcome, kinds_of
from .definitions import FLAGS, MEMBER_NAMES, PREFIX, TIMEZONE, UNIT, Schema
from .description import Description, EventSchema, ParameterSchema, digest

_READ_AS = {("integer", "number"), ("integer", "text decimal"), ("number", "text decimal")}
"""Pairs of types: values of the first are read as values of the second. But a decimal is text in TypeScript."""
_LOWER = ("minimum", "minLength", "minItems", "minProperties")
_UPPER = ("maximum", "maxLength", "maxItems", "maxProperties")
_LIMITS = (*_LOWER, *_UPPER, "pattern", "multipleOf", TIMEZONE, "propertyNames", "additionalProperties")
_MOST_PLACES = 20_000
"""Classes that are compared at each place where they are used. A hostile description has more paths than can be listed,
so later ones are compared once for each argument and result."""
_TYPE_NAMES = ("null", "boolean", "integer", "number", "string", "array", "object")
_JSON: dict[type, str] = dict(zip((type(None), bool, int, float, str, list, dict), _TYPE_NAMES, strict=True))


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


def compare(old: Description, new: Description, *, checked: bool = False) -> list[Change]:
    """Return the changes from ``old`` to ``new``, each once: events first, then what is emitted.

    Args:
        checked: whether peers check constraints, because they have classes like those of the described program.
    """
    comparison = _Comparison(old, new, checked=checked)
    found: dict[tuple[str, str, tuple[Kind, ...], Outcome], Change] = {}
    for change in (*comparison.events(old, new), *comparison.hidden):
        found.setdefault((change.rule, change.place, change.kinds, change.old_peers), change)
    return list(found.values())


class _Place(NamedTuple):
    """A place in a contract."""

    text: str
    results: bool = False
    """Whether handlers send the values there to callers."""
    read: bool = False
    """Whether the described program reads the values there, and not a program that was perhaps generated."""

    def named(self, do: str) -> str:
        """Return the advice ``do`` with whose handlers or readers it is about."""
        whose = {True: "this program", False: "its peers"}
        for what, ours in (("handlers", self.handled), ("readers", self.read)):
            do = do.replace(f"eploy the {what}", f"eploy the {what} ({whose[ours]})")
        return do

    @property
    def handled(self) -> bool:
        """Whether the described program has the handlers."""
        return self.read != self.results

    def at(self, more: str) -> _Place:
        """Return a place inside this one."""
        return self._replace(text=self.text + more)


_Events = Description | EventSchema  # a program, or a conversation


class _Leaf(NamedTuple):
    """One alternative of a schema: the values of one type and format, or the objects with one tag."""

    schema: Schema
    name: str
    """The name of its definition. "" if it has none."""


_Leaves = dict[tuple[str, Any], _Leaf]
"""Alternatives by type (or format) and tag."""


def _change(rule: str, place: _Place, old: Any = None, new: Any = None) -> Change:
    if place.results and f"result-{rule}" in RULES:
        rule = f"result-{rule}"
    row = RULES[rule]
    outcomes = row[:2] if not place.results else (row[1], row[0])
    old_peers = outcomes[0 if place.handled else 1]
    do = place.named(row.do)
    return Change(rule, place.text, kinds_of(*outcomes), *outcomes, old_peers, row.happens, do, old, new)


class _Comparison:
    """Compares the events of two descriptions."""

    def __init__(self, old: Description, new: Description, *, checked: bool) -> None:
        self._checked = checked
        self._definitions = old.definitions, new.definitions
        self._hidden = {each[:16] for side in (old, new) for each in side.hidden}
        self.hidden = [*_hidden(old, new)] if self._hidden else []
        self._compared: set[tuple[str, str, Any]] = set()
        """The pairs of definitions that are being compared, and those that contain such a pair."""
        self._places = 0
        self._is_cut = False

    def events(self, old: _Events, new: _Events, inside: str = "", *, turned: bool = False) -> Iterator[Change]:
        """Compare what two programs handle and emit, altogether or in one conversation.

        Args:
            turned: whether the conversation is one of the remote peer, so that this program sends what it handles.
        """
        for before, after, emits in ((old.events, new.events, False), (old.emits, new.emits, True)):
            olds, news = ({(each.channel or "", each.event): each for each in events} for events in (before, after))
            for key in sorted(olds.keys() | news.keys()):
                yield from self._event(olds.get(key), news.get(key), inside, emits=emits != turned)

    def _event(self, old: EventSchema | None, new: EventSchema | None, inside: str, *, emits: bool) -> Iterator[Change]:
        either = new or old
        assert either is not None
        text = _name(either)
        place = _Place(f"{'emits ' if emits else ''}{inside}{text}", read=not emits)
        if (old is None or new is None) and not (inside or emits) and digest(either, {})[:16] in self._hidden:
            return
        sent = emits or bool(inside)
        one_way = [sent and each is not None and each.kind == "value" and each.result is None for each in (old, new)]
        prefix = "emitted-" if any(one_way) else ""
        if old is None or new is None:
            name = f"{prefix}event-{'added' if old is None else 'removed'}"
            unheard = emits and new is None  # nothing is sent that could fail, but old peers wait for it in vain
            found = _change("emitted-request-removed" if unheard and not prefix else name, place)
            if new is None and either.deprecated:
                text = f"{found.text} It was deprecated: {either.deprecated.rstrip('.')}."
                found = msgspec.structs.replace(found, text=text)
            yield msgspec.structs.replace(found, old_peers="meaning") if unheard else found
            return
        if new.deprecated and not old.deprecated:
            yield _change("event-deprecated", place, None, new.deprecated)
        if new.keep != old.keep:
            longer, shorter = ("extended", "shortened") if new.keep and old.keep else ("added", "removed")
            yield _change(f"keep-{longer if new.keep > old.keep else shorter}", place, old.keep, new.keep)
        named = not (emits or inside)  # a URL may have the names of arguments
        yield from self._parameters(old.parameters, new.parameters, place, prefix if all(one_way) else "", named=named)
        if one_way[0] != one_way[1] and old.kind == new.kind:
            if {"type": "null"} in (old.result, new.result):
                return  # a handler of an event without a result answers null
            yield _change("emit-to-request" if one_way[0] else "request-to-emit", place)
        elif old.kind != new.kind:
            yield _change("kind-changed", place, old.kind, new.kind)
        else:
            if old.events or old.emits:  # otherwise, nobody knows what travelled in the conversation before
                yield from self.events(old, new, f"{inside}{text}.", turned=emits)
            for name in ("sends", "items", "result"):
                before, after = getattr(old, name), getattr(new, name)
                if before is not None and after is not None:
                    at = place.at(f".{name}")._replace(results=name != "sends", read=(name == "sends") != emits)
                    self._compared.clear()
                    yield from self._schemas(before, after, at)

    # ------------------------------------------------------------ parameters

    def _parameters(
        self, old: Sequence[ParameterSchema], new: Sequence[ParameterSchema], place: _Place, prefix: str, *, named: bool
    ) -> Iterator[Change]:
        renamed = "parameter-renamed" if named else "position-renamed"
        old_rest, new_rest = (next((each for each in side if each.rest), None) for side in (old, new))
        olds, news = ([each for each in side if not each.rest] for side in (old, new))
        names = [p.name for p in olds]
        known = _known([(q.name, q) for q in news], names)
        yield from _order(names, known, place, "({})", renamed)
        if named:
            before, after = (
                {p.name: _Field({OLDER_NAMES: p.schema.get(OLDER_NAMES, ())}, False) for p in side}
                for side in (old, new)
            )
            yield from _older_names(before, after, place, "({})", "parameter-name-added")
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
                action = f"{prefix}parameter-{'added' if p is None else 'removed'}"
                yield _change(action + "-optional" * (last.optional or has_rest), at, p, q)
            if one is None or other is None:
                continue
            if p is None or q is None:
                yield _change("parameter-before-rest", at, one.name, other.name)
            needed = [each is not None and not each.optional for each in (p, q)]
            if needed[0] != needed[1]:
                yield _change(f"parameter-{'required' if needed[1] else 'optional'}", at)
            if one.optional and other.optional:
                yield from _defaults(one.schema, other.schema, at)
            self._compared.clear()
            yield from self._schemas(one.schema, other.schema, at)
        if old_rest is not None and new_rest is not None:
            at = place.at(f"(*{new_rest.name})")
            if named and old_rest.name != new_rest.name:
                yield _change(renamed, at, old_rest.name, new_rest.name)
            yield from self._schemas(old_rest.schema, new_rest.schema, at)
        elif (rest := old_rest or new_rest) is not None:
            action = f"{prefix}parameter-{'removed' if old_rest else 'added'}"
            yield _change(f"{action}-optional", place.at(f"(*{rest.name})"))

    # ------------------------------------------------------------ types

    def _schemas(self, old: Schema, new: Schema, place: _Place) -> Iterator[Change]:
        olds, news = (_leaves(schema, found) for schema, found in zip((old, new), self._definitions, strict=True))
        for kind in ("object", "array"):
            mine, its = ([key for key in side if key[0] == kind] for side in (olds, news))
            if len(mine) == len(its) == 1:  # they are compared even if their tags differ
                olds[kind, None], news[kind, None] = olds.pop(mine[0]), news.pop(its[0])
        is_union = len({key for key in {**olds, **news} if key[0] == "object"}) > 1
        yield from _type_changes(olds, news, place)
        for key in [key for key in olds if key in news]:
            one, other = olds[key], news[key]
            if key[0] != "null":  # null has no unit, whatever is written beside it
                yield from _units(one.schema, other.schema, place)
            at = place.at(f"<{_shown(key, other)}>") if is_union and key[0] == "object" else place
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

    def _alike(self, old: Schema, new: Schema, place: _Place, kind: str) -> Iterator[Change]:
        """Compare two schemas for values of one type."""
        olds, news = _members(old), _members(new)
        if olds is not None and news is not None:
            yield from _values(olds, news, place)
        elif olds is not news:
            yield _change("type-narrowed" if olds is None else "type-widened", place, old, new)
        yield from _constraints(old, new, place, checked=self._checked or place.read)
        if kind not in ("array", "object"):
            return
        unique = bool(new.get("uniqueItems"))
        if bool(old.get("uniqueItems")) != unique:
            yield _change("list-to-set" if unique else "set-to-list", place)
        named, others = ("prefixItems", "items") if kind == "array" else ("properties", "additionalProperties")
        if named in old and named in new:
            yield from self._fields(old, new, place)
        else:
            if (named in old) != (named in new):
                yield from _dict_and_class(old, new, place, named)
            # Each item of a tuple with that of a list, or each field of a class with the values of a dict.
            at = place.at("[]" if kind == "array" else "{}")
            for one, other in product(*(_items(side, named, others) for side in (old, new))):
                yield from self._schemas(one, other, at)

    def _fields(self, old: Schema, new: Schema, place: _Place) -> Iterator[Change]:
        olds, news = _fields_of(old), _fields_of(new)
        if "prefixItems" in old:
            one, other = ([each.schema.get("title", name) for name, each in side.items()] for side in (olds, news))
            pairs = [*zip(other, news.values(), strict=True)]
            yield from _order(one, _known(pairs, one), place, ".{}", "position-renamed")
        else:
            if place.read:
                yield from _older_names(olds, news, place, ".{}", "older-name-added")
                news = dict(zip(_known([*news.items()], olds), news.values(), strict=True))
        for name in {**olds, **news}:
            p, q = olds.get(name), news.get(name)
            last: Any = q or p
            at = place.at(f".{last.schema.get('title', name) if 'prefixItems' in old else name}")
            if p is None or q is None:
                yield from _one_sided(p, q, at, refused=_is_closed(old if p is None else new))
                continue
            if p.constant and q.constant:
                if p.schema["enum"] != q.schema["enum"]:
                    yield _change("tag-changed", at, p.schema["enum"], q.schema["enum"])
                continue
            if q.deprecated and not p.deprecated:
                yield _change("field-deprecated", at)
            if p.may_be_absent and not q.may_be_missed:
                yield _change("field-required", at)
            if q.may_be_absent and not p.may_be_missed:
                yield _change("field-optional", at)
            if (p.may_be_absent or q.may_be_absent) and p.may_be_missed and q.may_be_missed:
                yield from _defaults(p.schema, q.schema, at)
            yield from self._schemas(p.schema, q.schema, at)


# ---------------------------------------------------------------- names and defaults


def _hidden(old: Description, new: Description) -> Iterator[Change]:
    """Compare the digests of the events that one of the versions hides."""
    names: dict[str, str] = {}
    sides: list[dict[str, str]] = []
    for side in (old, new):
        shown = {digest(each, side.definitions): _name(each) for each in side.events}
        names |= {key[:16]: name for key, name in shown.items()}
        sides.append({key[:16]: key for key in (*side.hidden, *shown)})
    for key in sorted({each[:16] for each in (*old.hidden, *new.hidden)}):
        before, after = (side.get(key) for side in sides)
        rule = "event-added" if before is None else "event-removed" if after is None else "hidden-changed"
        if before != after or key in names:
            place = _Place(names.get(key, f"hidden {after or before}"), read=True)
            yield _change("event-hidden" if before == after else rule, place)


def _name(event: EventSchema) -> str:
    return (f"{event.channel}:" if event.channel else "") + event.event


def _known(news: Sequence[tuple[str, _Field | ParameterSchema]], olds: Collection[str]) -> list[str]:
    """Return the name that the old version has for each field or parameter: its own, or an older one that is free."""
    free = {*olds} - {name for name, _ in news}
    return [
        name if name in olds else next((each for each in new.schema.get(OLDER_NAMES, ()) if each in free), name)
        for name, new in news
    ]


def _older_names(olds: _Fields, news: _Fields, place: _Place, at: str, added: str) -> Iterator[Change]:
    for (name, field), known in zip(news.items(), _known([*news.items()], olds), strict=True):
        if (before := olds.get(known)) is None:
            continue
        if known != name:
            yield _change(added + "-optional" * before.may_be_missed, place.at(at.format(name)), known, name)
        for lost in before.schema.get(OLDER_NAMES, ()):
            if lost not in (*news, *field.schema.get(OLDER_NAMES, ())):
                yield _change("older-name-removed", place.at(at.format(lost)))


def _order(old: Sequence[str], new: Sequence[str], place: _Place, at: str, renamed: str) -> Iterator[Change]:
    """Compare the names of values that are sent by position."""
    if moved := [name for name in old if name in new and old.index(name) != new.index(name)]:
        yield _change("positions-reordered", place.at(at.format(", ".join(moved))), list(old), list(new))
    for before, after in zip(old, new, strict=False):
        if before != after and before not in new and after not in old:
            yield _change(renamed, place.at(at.format(after)), before, after)


def _units(old: Schema, new: Schema, place: _Place) -> Iterator[Change]:
    before, after = (side.get(UNIT) for side in (old, new))
    if before != after:
        action = "declared" if before is None else "removed" if after is None else "changed"
        yield _change(f"unit-{action}", place, before, after)


def _defaults(old: Schema, new: Schema, place: _Place) -> Iterator[Change]:
    if ("default" in old) != ("default" in new) or old.get("default") != new.get("default"):
        yield _change("default-changed", place, old.get("default"), new.get("default"))


# ---------------------------------------------------------------- alternatives


def _leaves(schema: Schema, definitions: dict[str, Schema]) -> _Leaves:
    """Return the alternatives of a schema."""
    found: _Leaves = {}
    for kind, tag, leaf in _walk(schema, definitions, "", frozenset()):
        number = 2
        key = kind, tag
        while key in found:
            key, number = (kind, (tag, number)), number + 1
        found[key] = leaf
    return found


def _walk(
    schema: Any, definitions: dict[str, Schema], home: str, seen: frozenset[str]
) -> Iterator[tuple[str, Any, _Leaf]]:
    schema = _as_enum(schema)
    shared = {UNIT: schema[UNIT]} if UNIT in schema else {}
    if (ref := schema.get("$ref")) is not None:
        name = ref.removeprefix(PREFIX)
        if name not in seen:
            yield from _walk({**shared, **definitions[name]}, definitions, name, seen | {name})
    elif members := schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf"):
        for member in members:
            yield from _walk({**shared, **member}, definitions, home, seen)
    elif "enum" in schema:
        values = schema["enum"]
        names = [*schema.get(MEMBER_NAMES, ()), *[None] * len(values)]
        for kind in dict.fromkeys(_JSON[type(value)] for value in values):
            chosen = [number for number, value in enumerate(values) if _JSON[type(value)] == kind]
            part: Schema = {**shared, "enum": [values[n] for n in chosen], MEMBER_NAMES: [names[n] for n in chosen]}
            yield kind, None, _Leaf({} if kind == "null" else part, home)
    else:
        kinds = schema.get("type") or _implied(schema)
        for kind in [kinds] if isinstance(kinds, str) else kinds:
            tag = None
            if kind == "string" and "contentEncoding" in schema:
                kind = "bytes"
            elif kind == "string" and "format" in schema:
                kind = f"text {schema['format']}"
            elif kind in ("object", "array"):
                tag = next((repr(each.schema["enum"]) for each in _fields_of(schema).values() if each.constant), None)
            yield kind, tag, _Leaf(schema, home)


def _dict_and_class(old: Schema, new: Schema, place: _Place, named: str) -> Iterator[Change]:
    """Yield the changes from a dict to a class, or from a list to a tuple, and the reverse."""
    one = old if named in old else new
    if named == "properties" and not _is_closed(one):
        yield _change("class-to-dict" if one is old else "dict-to-class", place)
    if named == "prefixItems" or _is_closed(one) or not all(each.may_be_missed for each in _fields_of(one).values()):
        yield _change("type-widened" if one is old else "type-narrowed", place, old, new)


def _implied(schema: Schema) -> str:
    """Return the type that a schema without ``type`` describes."""
    if schema.keys() & {"properties", "additionalProperties"}:
        return "object"
    return "array" if schema.keys() & {"items", "prefixItems"} else "any"


def _shown(key: tuple[str, Any], leaf: _Leaf) -> str:
    """Return the name of an alternative for people: of its class, or of its type."""
    return str(leaf.schema.get("title", leaf.name)) if leaf.name else key[0].removeprefix("text ")


def _type_changes(olds: _Leaves, news: _Leaves, place: _Place) -> Iterator[Change]:
    """Yield the changes for types that only one version reads."""
    lost = [key for key in olds if not _is_read(key, olds, news, place)]
    gained = [key for key in news if not _is_read(key, news, olds, place)]
    old, new = ({kind for kind, _ in side} for side in (olds, news))
    for rule, one, other in (("bytes-to-text", old, new), ("text-to-bytes", new, old)):
        if "bytes" in one - other and "string" in other - one:
            lost, gained = ([key for key in side if key[0] not in ("bytes", "string")] for side in (lost, gained))
            yield _change(rule, place)
    for rule, here, there, side in (("integer-to-number", old, new, gained), ("number-to-integer", new, old, lost)):
        if ("number", None) in side and "integer" in here - there:
            side.remove(("number", None))
            yield _change(rule, place)
    for action, side in (("refused", lost), ("allowed", gained)):
        if ("null", None) in side:
            side.remove(("null", None))
            yield _change(f"null-{action}", place)
    for action, side, leaves in (("removed", lost, olds), ("added", gained, news)):
        for key in [each for each in side if each[1] is not None and each[0] in old & new]:
            side.remove(key)
            yield _change(f"variant-{action}", place.at(f"<{_shown(key, leaves[key])}>"))
    others = [[_shown(key, leaves[key]) for key in side] for side, leaves in ((lost, olds), (gained, news))]
    if all(others):
        yield _change("type-changed", place, *map(" | ".join, others))
        return
    for rule, names in zip(("type-narrowed", "type-widened"), others, strict=True):
        for name in names:
            yield _change(rule, place.at(f"<{name}>"))


def _is_read(key: tuple[str, Any], leaves: _Leaves, readers: _Leaves, place: _Place) -> bool:
    """Return whether one of ``readers`` accepts the type of an alternative. Other types must have the same limits."""

    def limits(schema: Schema) -> set[str]:
        found = {keyword: _least_or_most(schema, keyword) for keyword in (*_LIMITS, "enum")}
        return {f"{keyword} {value}" for keyword, value in found.items() if value is not None}

    kind, own = key[0], limits(leaves[key].schema)
    pairs = {(kind, reader) for kind, reader in _READ_AS if place.read or reader == "number"}
    return key in readers or any(
        reader == "any"
        or (((kind, reader) in pairs or (kind[:5], reader) == ("text ", "string")) and limits(leaf.schema) <= own)
        for (reader, _), leaf in readers.items()
    )


_Members = dict[str, str | None]
"""The names of the values that a schema lists, by their JSON."""


def _members(schema: Schema) -> _Members | None:
    if FLAGS in schema:
        return {str(value): name for name, value in schema[FLAGS].items()}
    return dict(zip(map(json.dumps, schema["enum"]), schema[MEMBER_NAMES], strict=True)) if "enum" in schema else None


def _values(olds: _Members, news: _Members, place: _Place) -> Iterator[Change]:
    for value in {**olds, **news}:
        at = place.at(f"={value}")
        if value not in news or value not in olds:
            yield _change(f"enum-value-{'added' if value in news else 'removed'}", at)
        elif (before := olds[value]) != (after := news[value]) and before and after:
            renumbered = before in news.values() or after in olds.values()
            yield _change("enum-renumbered" if renumbered else "enum-member-renamed", at, before, after)


def _least_or_most(schema: Schema, keyword: str) -> Any:
    """Return what a schema says of a keyword. That a value is above 0 means, for an integer, that it is 1 or more."""
    bound = schema.get("exclusiveM" + keyword[1:])
    if not isinstance(bound, int | float):
        return schema.get(keyword)
    upwards = keyword in _LOWER
    if schema.get("type") != "integer":
        return math.nextafter(bound, math.inf if upwards else -math.inf)
    return bound // 1 + 1 if upwards else -(-bound // 1) - 1


def _constraints(old: Schema, new: Schema, place: _Place, *, checked: bool) -> Iterator[Change]:
    classes = checked and "properties" in old and "properties" in new
    for keyword in _LIMITS:
        if keyword.endswith("Items") and ("prefixItems" in old or "prefixItems" in new):
            continue
        before, after = (_least_or_most(side, keyword) for side in (old, new))
        if keyword == "additionalProperties":  # whether a class forbids unknown fields
            before, after = (True if classes and _is_closed(side) else None for side in (old, new))
        if before == after:
            continue
        ordered = keyword in (*_LOWER, *_UPPER) and isinstance(before, int | float) and isinstance(after, int | float)
        if not checked:
            action = "unchecked"
        elif before is not None and after is not None and not ordered:
            action = "changed"
        elif before is None or (after is not None and (after > before) == (keyword in _LOWER)):
            action = "tightened"
        else:
            action = "loosened"
        yield _change(f"constraint-{action}", place.at(f" {keyword}"), before, after)


# ---------------------------------------------------------------- fields


class _Field(NamedTuple):
    """A field of an object, or an item of an array of fixed length."""

    schema: Schema
    may_be_absent: bool
    """Whether a sender may leave it out."""

    @property
    def may_be_missed(self) -> bool:
        """Whether a receiver accepts an object without it."""
        return self.may_be_absent or "default" in self.schema

    @property
    def deprecated(self) -> bool:
        """Whether its schema says so."""
        return self.schema.get("deprecated") is True

    @property
    def constant(self) -> bool:
        """Whether it is a tag."""
        return len(self.schema.get("enum", ())) == 1 and MEMBER_NAMES not in self.schema


_Fields = dict[str, _Field]


def _fields_of(schema: Schema) -> _Fields:
    if "prefixItems" in schema:
        least = schema.get("minItems", 0)
        return {str(n): _Field(_as_enum(each), n >= least) for n, each in enumerate(schema["prefixItems"])}
    required = schema.get("required", ())
    return {name: _Field(_as_enum(each), name not in required) for name, each in schema.get("properties", {}).items()}


def _items(schema: Schema, fixed: str, others: str) -> list[Any]:
    """Return the schemas of the items of a tuple or a class, or the one for all items of a list or a dict."""
    return [each.schema for each in _fields_of(schema).values()] if fixed in schema else [schema.get(others)]


def _as_enum(schema: Any) -> Schema:
    """Return a schema in which ``const`` is written as ``enum``. True, False and None are read as any value."""
    found: Schema = schema if schema.__class__ is dict else {}
    return {**found, "enum": [found["const"]]} if "const" in found else found


def _is_closed(schema: Schema) -> bool:
    """Return whether a class refuses unknown fields."""
    return schema.get("additionalProperties") is False or ("prefixItems" in schema and "maxItems" in schema)


def _one_sided(old: _Field | None, new: _Field | None, place: _Place, *, refused: bool) -> Iterator[Change]:
    """Yield the changes for a field that one version has. ``refused``: the other one refuses unknown fields."""
    field, action = (new, "added") if old is None else (old, "removed")
    assert field is not None
    # Null says that the field is missing. Another default could be a value.
    without = "-default" if place.results and field.schema.get("default") is not None else "-optional"
    rule = f"field-{action}{without * field.may_be_missed}"
    found = _change(rule, place, old and old.schema, new and new.schema)
    if new is None and field.deprecated:
        found = msgspec.structs.replace(found, text=f"{found.text} It was deprecated.")
    yield found
    if refused:
        yield _change(f"{action}-field-refused", place)
