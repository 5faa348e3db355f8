"""Two versions of a program: a caller of one version calls a handler of the other, and what was meant is compared."""

from __future__ import annotations

import collections.abc
import datetime
import decimal
import enum
import typing
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, is_dataclass
from dataclasses import fields as fields_of
from decimal import Decimal
from typing import Any, Literal, NamedTuple

import msgspec
import pydantic
from msgspec import inspect as mi

import wsrpc
from wsrpc import Client, Server, WsrpcError
from wsrpc._schema.change_rules import Outcome
from wsrpc.schema import Description, describe
from wsrpc.testing import connect

__all__ = ["Version", "differs", "meant", "played"]

MODULES = {
    collections.abc: "AsyncIterator",
    datetime: "date datetime",
    decimal: "Decimal",
    msgspec: "Meta Struct UNSET UnsetType",
    typing: "Annotated Any Literal NamedTuple Optional Protocol",
    wsrpc: "AnonymousChannel older_names",
}
NAMES: dict[str, Any] = {
    "__name__": __name__,
    "enum": enum,
    "pydantic": pydantic,
    "wsrpc": wsrpc,
    **{name: getattr(module, name) for module, names in MODULES.items() for name in names.split()},
}
FORMS = {
    "value": ("def f({takes}) -> {returns}:", "return {gives}"),
    "stream": ("async def f({takes}) -> AsyncIterator[{returns}]:", "yield {gives}"),
    "upload": (
        "async def f(items: AsyncIterator[{sends}], {takes}) -> {returns}:",
        "got['items'] = [each async for each in items]; return {gives}",
    ),
    "exchange": (
        "async def f(items: AsyncIterator[{sends}], {takes}) -> AsyncIterator[{returns}]:",
        "got['items'] = [each async for each in items]; yield {gives}",
    ),
    "conversation": ("async def f(channel: AnonymousChannel, {takes}) -> None:", "pass"),
}


@dataclass
class Version:
    """A program with one event ``f``, as source text. The server calls the client if ``emits``."""

    takes: str = "x: int"
    call: str = "1"
    """The arguments of the call."""
    returns: str = "None"
    gives: str = "None"
    types: str = ""
    kind: Literal["value", "stream", "upload", "exchange", "conversation", ""] = "value"
    """"" if the program does not know the event."""
    sends: str = "int"
    items: str = "7"
    emits: Literal["", "event", "request"] = ""
    deprecated: str | None = None
    names: dict[str, Any] = field(init=False, repr=False)
    got: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]], repr=False)
    """The arguments of each call of the handler."""

    def __post_init__(self) -> None:
        self.names = {**NAMES, "seen": self.got}
        head, body = FORMS[self.kind or "value"]
        # Each class is made anew, as in another program.
        source = f"""{self.types}
{head}
    got = dict(locals()); got.pop("items", None), got.pop("channel", None), seen.append(got)
    {body}
def bound({{takes}}): return dict(locals())
class Contract(Protocol):
    @wsrpc.method(deprecated={self.deprecated!r})
    async def f(self, {{takes}}) -> {{returns}}: ...
"""
        for name in ("takes", "returns", "gives", "sends"):
            source = source.replace(f"{{{name}}}", getattr(self, name))
        exec(compile(source, "<version>", "exec", dont_inherit=True), self.names)

    def value(self, source: str) -> Any:
        return eval(source, self.names)

    def describe(self) -> Description:
        server = Server()
        if self.kind and self.emits:
            server.declare(self.names["Contract"], requests=self.emits == "request")
        elif self.kind:
            server.on("f", self.names["f"], deprecated=self.deprecated)
        return describe(server)

    def sent(self) -> tuple[tuple[Any, ...], dict[str, Any], list[Any]]:
        """Return the arguments of the call, all of them by name with defaults, and the uploaded items."""
        args: tuple[Any, ...] = self.value(f"(lambda *args: args)({self.call})")
        return args, self.names["bound"](*args), [self.value(self.items)] if self.kind in ("upload", "exchange") else []


async def played(caller: Version, handler: Version) -> Outcome:
    """Let a caller of one version call a handler of the other, and return what happens."""
    server, client = Server(), Client()
    if handler.kind:
        (client if handler.emits else server).on("f", handler.names["f"], deprecated=handler.deprecated)
    client.on("sync", lambda: None)
    if not caller.kind:
        return "works"  # nothing is sent
    args, by_name, items = caller.sent()
    returns = caller.value(caller.returns)
    got: list[Any] = []
    async with connect(server, client=client):
        peer: Any = server.peers[0] if caller.emits else client
        try:
            if caller.emits == "event":
                await peer.emit("f", *args)
                await peer.request("sync")
            elif caller.kind in ("stream", "exchange"):
                send = {"send": _each(items)} if items else {}
                async with peer.stream("f", *args, returns=returns, **send) as stream:
                    got = [each async for each in stream]
            elif caller.kind == "conversation":
                async with await peer.open_channel("f", *args):
                    pass
            else:
                options: dict[str, Any] = {"send": _each(items)} if items else {}
                if caller.kind == "upload" and handler.kind in ("stream", "exchange"):
                    options["timeout"] = 60  # both sides wait: for the caller's `start`, and for the handler's
                got = [await peer.request("f", *args, returns=returns, **options)]
        except WsrpcError:
            return "fails"
    if not handler.got:
        return "fails" if handler.kind else "meaning"
    [seen] = handler.got
    given = [handler.value(handler.gives)] * len(got)
    lost = differs(meant(items), meant(seen.pop("items", [])), read_by_handler=True)
    if lost or differs(meant(by_name), meant(seen), read_by_handler=True, passed=args):
        return "meaning"
    return "meaning" if got and differs(meant(given), meant(got), read_by_handler=False) else "works"


async def _each(items: list[Any]) -> AsyncIterator[Any]:
    for item in items:
        yield item


# ---------------------------------------------------------------- what was meant


class Member(NamedTuple):
    """A member of an enumeration."""

    name: str
    value: Any
    names: tuple[str, ...]


def _oldest_name(field: mi.Field) -> str:
    """Return the oldest name of a field, with its unit."""
    schema = (field.type.extra_json_schema if isinstance(field.type, mi.Metadata) else None) or {}
    return str(schema.get("x-older-names", [field.name])[-1]) + str(schema.get("unit", ""))


def meant(value: Any) -> Any:
    """Return a value with the names that its parts have in its own version."""
    if isinstance(value, enum.Enum):
        return Member(value.name, value.value, tuple(type(value).__members__))
    if isinstance(value, msgspec.Struct):
        found = msgspec.structs.asdict(value)
        oldest = {each.name: _oldest_name(each) for each in mi.type_info(type(value)).fields}  # type: ignore[attr-defined]
        return {oldest[name]: meant(each) for name, each in found.items() if each is not msgspec.UNSET}
    if isinstance(value, pydantic.BaseModel):
        return {name: meant(getattr(value, name)) for name in type(value).model_fields}
    if is_dataclass(value):
        return {each.name: meant(getattr(value, each.name)) for each in fields_of(value)}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return {name: meant(getattr(value, name)) for name in value._fields}
    if isinstance(value, dict):
        return {name: meant(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [meant(each) for each in value]
    if isinstance(value, set | frozenset):
        return frozenset(map(meant, value))
    if isinstance(value, bytes | bool | int | float | Decimal | str | None):
        return value
    return msgspec.to_builtins(value)


def differs(sent: Any, seen: Any, *, read_by_handler: bool, passed: tuple[Any, ...] | None = None) -> bool:
    """Return whether a value does not mean what was sent.

    Names that only the sender knows count if a handler reads the value, because its caller asked for something. Names
    that only the reader knows, with a default, count if a caller reads the value, because no handler gave them. Null
    says that there is no value.

    Args:
        passed: the arguments, if ``sent`` has all parameters by name. Defaults that were not passed count only if the
            handler knows the name.
    """
    if isinstance(sent, Member) and isinstance(seen, Member):
        known = sent.name in seen.names or seen.name in sent.names
        return sent.value != seen.value or (known and sent.name != seen.name)
    sent, seen = (each.value if isinstance(each, Member) else each for each in (sent, seen))
    if isinstance(sent, list) and isinstance(seen, dict):  # a tuple is read as a class that is sent as an array
        sent = dict(zip([*seen, *range(len(sent))], sent, strict=False))
    if isinstance(sent, dict) and isinstance(seen, list):
        seen = dict(zip([*sent, *range(len(seen))], seen, strict=False))
    if isinstance(sent, dict) and isinstance(seen, dict):
        names = list(sent) if passed is None else list(sent)[: len(passed)]
        lost = [name for name in names if name not in seen]
        added = [name for name in seen if name not in sent and seen[name] is not None]
        if (read_by_handler and lost) or (not read_by_handler and added):
            return True
        return any(differs(sent[name], seen[name], read_by_handler=read_by_handler) for name in sent if name in seen)
    if isinstance(sent, list) and isinstance(seen, list):
        pairs = zip(sent, seen, strict=False)
        return len(sent) != len(seen) or any(differs(*pair, read_by_handler=read_by_handler) for pair in pairs)
    if isinstance(sent, frozenset) and isinstance(seen, list):  # it is sent in any order
        return len(sent) != len(seen) or sent != set(seen)
    if isinstance(sent, Decimal) and isinstance(seen, str):
        return str(sent) != seen
    numbers = all(isinstance(each, int | float | Decimal) and not isinstance(each, bool) for each in (sent, seen))
    return bool(sent != seen) or (type(sent) is not type(seen) and not numbers)
