"""Random contracts with calls of their methods, and an implementation that records what arrives."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Iterator
from dataclasses import dataclass, field
from keyword import iskeyword
from typing import Any, Literal, Protocol

import hypothesis.strategies as st
from typed_values import Typed, same
from typed_values import types as all_types

import wsrpc
from wsrpc import AnonymousChannel

__all__ = ["Argument", "Call", "Contract", "Member", "Recorder", "contracts", "differs"]

Kind = Literal["request", "stream", "upload", "exchange", "conversation", "event"]
REQUIRED = object()
"""The default of an argument that has none."""


@dataclass(frozen=True)
class Argument:
    """A parameter of a method that is filled from the wire. Those that have only a name come last."""

    name: str
    typed: Typed
    how: Literal["place", "either", "name"]
    """Whether it is positional only, either, or keyword only."""
    default: Any = REQUIRED


@dataclass(frozen=True)
class Member:
    """A method of a contract."""

    name: str
    event: str
    kind: Kind
    arguments: tuple[Argument, ...]
    rest: Typed | None
    sends: Typed | None
    """The items of an upload or an exchange, or the events of a conversation."""
    source: Literal["first", "last"]
    """Where the parameter for these items stands. The last one is keyword only."""
    result: Typed
    style: Literal["def", "async def"]
    """How it is implemented, and an event also declared. Uploads, exchanges and conversations are always coroutines."""

    @property
    def many(self) -> bool:
        """Whether the answer is several items."""
        return self.kind in ("stream", "exchange")

    def parameters(self, source: str) -> str:
        """Return source for the parameters, where ``source`` is the one that takes the items, or ""."""
        shown = ["self", *([source] if source and self.source == "first" else [])]
        for way in ("place", "either", "name"):
            of_way = [each for each in self.arguments if each.how == way]
            if way == "name":
                if self.rest is not None:
                    shown.append(f"*rest: {self.name}_rest")
                elif of_way or (source and self.source == "last"):
                    shown.append("*")
            for each in of_way:
                default = "" if each.default is REQUIRED else f" = {self.name}_{each.name}_default"
                shown.append(f"{each.name}: {self.name}_{each.name}{default}")
            if way == "place" and of_way:
                shown.append("/")
        if source and self.source == "last":
            shown.append(source)
        return ", ".join(shown)

    def namespace(self) -> dict[str, Any]:
        """Return what the source of the method refers to."""
        names: dict[str, Any] = {f"{self.name}_result": self.result.type}
        for each in self.arguments:
            names[f"{self.name}_{each.name}"] = each.typed.type
            names[f"{self.name}_{each.name}_default"] = each.default
        if self.rest is not None:
            names[f"{self.name}_rest"] = self.rest.type
        if self.sends is not None:
            names[f"{self.name}_sends"] = self.sends.type
        return names

    def declared(self) -> list[str]:
        """Return source for the method in the contract."""
        lines = [] if self.event == self.name else [f"@wsrpc.method({self.event!r})"]
        n, given = self.name, self.parameters("")
        items = self.parameters(f"items: AsyncIterable[{n}_sends]")
        heads: dict[Kind, str] = {
            "request": f"async def {n}({given}) -> {n}_result",
            "stream": f"def {n}({given}) -> wsrpc.Stream[{n}_result]",
            "upload": f"async def {n}({items}) -> {n}_result",
            "exchange": f"def {n}({items}) -> wsrpc.Stream[{n}_result]",
            "conversation": f"async def {n}({given}) -> AnonymousChannel",
            "event": f"{self.style} {n}({given}) -> None",
        }
        return [*lines, f"{heads[self.kind]}: ..."]

    def implemented(self) -> list[str]:
        """Return source for the method of an implementation."""
        n, given = self.name, self.parameters("")
        items = self.parameters(f"items: AsyncIterator[{n}_sends]")
        channel = given.replace("self", "self, channel: AnonymousChannel", 1)
        got = [*(each.name for each in self.arguments), *(["*rest"] if self.rest is not None else [])]
        record = f"self.recorder.arrived({n!r}, [{', '.join(got)}]"
        read = "[each async for each in items]"
        stream = "Iterator" if self.style == "def" else "AsyncIterator"
        methods: dict[Kind, list[str]] = {
            "request": [f"{self.style} {n}({given}) -> {n}_result:", f"return {record})"],
            "event": [f"{self.style} {n}({given}) -> None:", f"{record})"],
            "stream": [f"{self.style} {n}({given}) -> {stream}[{n}_result]:", f"for each in {record}): yield each"],
            "upload": [f"async def {n}({items}) -> {n}_result:", f"return {record}, {read})"],
            "exchange": [
                f"async def {n}({items}) -> AsyncIterator[{n}_result]:",
                f"for each in {record}, {read}): yield each",
            ],
            "conversation": [
                f"async def {n}({channel}) -> None:",
                f"answers = iter({record}, got := []))",
                f"async for (each,) in channel.events('item', returns=tuple[{n}_sends]):",
                "    got.append(each)",
                "    await channel.emit('answer', next(answers))",
            ],
        }
        head, *body = methods[self.kind]
        return [head, *(f"    {line}" for line in body)]


@dataclass(frozen=True)
class Call:
    """One call of a method: what is given, and what is answered."""

    member: Member
    given: dict[str, Any]
    """The arguments that are not omitted, by name."""
    rest: tuple[Any, ...]
    items: list[Any]
    by_place: int
    """How many arguments are given by their place, in Python."""
    answer: Any
    """The answer, or a list of all items of a stream. A conversation has an answer to each item."""

    def arrives(self) -> list[Any]:
        """Return the arguments that the implementation should get, in the order of the signature."""
        return [*(self.given.get(each.name, each.default) for each in self.member.arguments), *self.rest]


class Recorder:
    """Notes what arrives at an implementation, and says what it answers."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, list[Any], list[Any]]] = []
        self._answers: dict[str, deque[Any]] = {}

    def will_answer(self, call: Call) -> None:
        self._answers.setdefault(call.member.name, deque()).append(call.answer)

    def arrived(self, name: str, arguments: list[Any], items: list[Any] | None = None) -> Any:
        """Note a call, and return its answer. ``items`` may be filled later."""
        self.calls.append((name, arguments, [] if items is None else items))
        return self._answers[name].popleft()


@dataclass
class Contract:
    """A `typing.Protocol` with methods, and calls of them."""

    members: tuple[Member, ...]
    calls: tuple[Call, ...]
    name: str = "Contract"
    protocol: Any = field(init=False)
    outer: Any = field(init=False)
    """A contract that has this one as its channel ``chat``."""

    def __post_init__(self) -> None:
        self._names: dict[str, Any] = {
            "__name__": __name__,
            "AnonymousChannel": AnonymousChannel,
            "AsyncIterable": AsyncIterable,
            "AsyncIterator": AsyncIterator,
            "Iterator": Iterator,
            "Protocol": Protocol,
            "wsrpc": wsrpc,
        }
        for member in self.members:
            self._names |= member.namespace()
        self.protocol = self._made(f"class {self.name}(Protocol)", [member.declared() for member in self.members])
        self.outer = self._made("class Outer(Protocol)", [[f"chat: {self.name}"]])

    def implementation(self) -> Any:
        """Return an object with the methods, and with a `Recorder` as ``recorder``."""
        made: Any = self._made("class Implementation", [member.implemented() for member in self.members])()
        made.recorder = Recorder()
        return made

    def _made(self, head: str, methods: list[list[str]]) -> Any:
        lines = [f"{head}:", "    pass", *(f"    {line}" for method in methods for line in method)]
        source = "\n".join(lines)
        exec(compile(source, "<contract>", "exec", dont_inherit=True), self._names)
        return self._names[head.removeprefix("class ").partition("(")[0]]


def differs(call: Call, arrived: tuple[str, list[Any], list[Any]]) -> str | None:
    """Say how what has arrived differs from what was sent; None if it does not."""
    name, arguments, items = arrived
    if name != call.member.name:
        return f"{call.member.name} was called, and {name} ran"
    if not same(arguments, call.arrives()):
        return f"{name}: {call.arrives()} was sent, and {arguments} arrived"
    if not same(items, call.items):
        return f"{name}: the items {call.items} were sent, and {items} arrived"
    return None


# ---------------------------------------------------------------- strategies

NAMES = ["a", "b", "text", "event", "channel_name", "timeout", "args", "returns", "self_", "caller", "é", "type", "id"]
EVENTS = ["say it", "größe", "class", "request", "_private", "a.b", "1st", "pull", 'quo"te', "of"]
METHODS = ["say", "request", "emit", "of", "close", "list", "type", "mro", "proxy", "stream", "id", "count"]
KINDS: list[Kind] = ["request", "request", "request", "stream", "upload", "exchange", "conversation"]


@st.composite
def arguments_of(draw: st.DrawFn, taken: str) -> tuple[tuple[Argument, ...], Typed | None]:
    names = draw(st.lists(st.sampled_from([name for name in NAMES if name != taken]), max_size=4, unique=True))
    assert not any(map(iskeyword, names))
    rest = draw(all_types) if draw(st.integers(0, 3)) == 0 else None
    ways: Any = ["place", "either"] if rest is not None else ["place", "either", "either", "name", "name"]
    order = ["place", "either", "name"]
    hows = sorted((draw(st.sampled_from(ways)) for _ in names), key=order.index)
    optional = False
    made: list[Argument] = []
    for name, how in zip(names, hows, strict=True):
        typed = draw(all_types)
        optional = draw(st.booleans()) if how == "name" else optional or draw(st.integers(0, 2)) == 0
        made.append(Argument(name, typed, how, draw(typed.values) if optional else REQUIRED))
    return tuple(made), rest


@st.composite
def members(draw: st.DrawFn, name: str, event: str, kinds: list[Kind]) -> Member:
    kind = draw(st.sampled_from(kinds))
    arguments, rest = draw(arguments_of(name))
    sends = draw(all_types) if kind in ("upload", "exchange", "conversation") else None
    source: Any = draw(st.sampled_from(["first", "last"]))
    style: Any = draw(st.sampled_from(["def", "async def"]))
    result = Typed(None, st.none()) if kind == "event" else draw(all_types)
    return Member(name, event, kind, arguments, rest, sends, source, result, style)


@st.composite
def calls_of(draw: st.DrawFn, member: Member) -> Call:
    rest: tuple[Any, ...] = ()
    if member.rest is not None:
        rest = tuple(draw(st.lists(member.rest.values, max_size=2)))
    given: dict[str, Any] = {}
    for each in member.arguments:
        if rest or each.default is REQUIRED or draw(st.booleans()):
            given[each.name] = draw(each.typed.values)
    # Those before the first that is omitted may be given by place; those that only have a place, and are followed by
    # such, must be.
    at_most = 0
    for each in member.arguments:
        if each.how == "name" or each.name not in given:
            break
        at_most += 1
    for each in member.arguments[at_most:]:
        if each.how == "place":
            given.pop(each.name, None)
    at_least = sum(each.how == "place" for each in member.arguments[:at_most])
    by_place = at_most if rest else draw(st.integers(at_least, at_most))
    items = [] if member.sends is None else draw(st.lists(member.sends.values, max_size=3))
    if member.kind == "conversation":
        answer: Any = [draw(member.result.values) for _ in items]
    else:
        answer = draw(st.lists(member.result.values, max_size=3) if member.many else member.result.values)
    return Call(member, given, rest, items, by_place, answer)


@st.composite
def contracts(draw: st.DrawFn, kinds: list[Kind] = KINDS, most: int = 4) -> Contract:
    """Contracts with some methods of the given kinds, each of which is called once or twice."""
    names = draw(st.lists(st.sampled_from(METHODS), min_size=1, max_size=most, unique=True))
    events = [draw(st.sampled_from([each, each, each, *EVENTS])) for each in names]
    unique = [event if events.index(event) == n else names[n] for n, event in enumerate(events)]
    unique = [event if unique.count(event) == 1 else f"{event}{n}" for n, event in enumerate(unique)]
    made = tuple(draw(members(*each, kinds)) for each in zip(names, unique, strict=True))
    calls = [draw(calls_of(member)) for member in made for _ in range(draw(st.integers(1, 2)))]
    return Contract(made, tuple(calls))
