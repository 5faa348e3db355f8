"""Two versions of a program: a caller of one version calls a handler of the other, and what was meant is compared.

The client has classes that were written by hand, or is generated from the description of its version.
"""

from __future__ import annotations

import asyncio
import collections.abc
import datetime
import decimal
import enum
import typing
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, is_dataclass
from dataclasses import fields as fields_of
from decimal import Decimal
from itertools import islice
from typing import Any, Literal, NamedTuple

import msgspec
import pydantic
from generated import loaded
from msgspec import inspect as mi

import wsrpc
from wsrpc import BadArguments, Client, Context, Server, WsrpcError
from wsrpc._core.handlers.arguments import placed
from wsrpc._core.handlers.contract import Member as ContractMember
from wsrpc._core.handlers.contract import read_contract
from wsrpc._core.handlers.introspection import introspect
from wsrpc._http_server.routed_request import handler_of
from wsrpc._schema.change_rules import Outcome
from wsrpc._values.convert import converter, make_enc_hook
from wsrpc._values.older_names import older_names_of
from wsrpc.codegen.python_client import client_module
from wsrpc.schema import Description, describe
from wsrpc.testing import connect

__all__ = [
    *("Version", "as_own", "as_type", "differs", "in_json", "meant", "outcome"),
    *("played", "played_by_generated", "played_by_url"),
]

MODULES = {
    collections.abc: "AsyncIterator",
    datetime: "date datetime",
    decimal: "Decimal",
    msgspec: "Meta Struct UNSET UnsetType",
    typing: "Annotated Any Literal NamedTuple Optional Protocol",
    wsrpc: "AnonymousChannel Conversation older_names",
}


async def first_message(ctx: Context) -> list[Any]:
    """Return the first message for a handler, if there is one soon."""
    try:
        async with asyncio.timeout(1):
            return [(await anext(ctx.inbox())).value]
    except TimeoutError:
        return []


NAMES: dict[str, Any] = {
    "first_message": first_message,
    "__name__": __name__,
    "enum": enum,
    "dataclass": dataclass,
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
    "messages": (
        "async def f(ctx: wsrpc.Context, {takes}) -> AsyncIterator[{returns}]:",
        "got['items'] = await first_message(ctx); yield {gives}",
    ),
    "conversation": (
        "async def f(channel: Annotated[AnonymousChannel, Conversation({talks})], {takes}) -> None:",
        "pass",
    ),
}


SENDING, STREAMS = ("upload", "exchange", "messages"), ("stream", "exchange", "messages")


@dataclass
class Version:
    """A program with one event ``f``, as source text. The server calls the client if ``emits``."""

    takes: str = "x: int"
    call: str = "1"
    """The arguments of the call."""
    returns: str = "None"
    gives: str = "None"
    types: str = ""
    kind: Literal["value", "stream", "upload", "exchange", "messages", "conversation", ""] = "value"
    """"" if the program does not know the event. "messages": a stream whose handler gets a message of the caller."""
    sends: str = "int"
    items: str = "7"
    emits: Literal["", "event", "request"] = ""
    talks: str = ""
    """The arguments of `Conversation`."""
    deprecated: str | None = None
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    """Further options of the handler."""
    key: str | None = None
    """The key of the call."""
    again: float = 0
    """Seconds after which the call is made again, because its caller does not know whether it has run."""
    names: dict[str, Any] = field(init=False, repr=False)
    got: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]], repr=False)
    """The arguments of each call of the handler."""

    def __post_init__(self) -> None:
        self.names = {**NAMES, "seen": self.got}
        head, body = FORMS[self.kind or "value"]
        answer = "Annotated[AnonymousChannel, Conversation({talks})]" if self.kind == "conversation" else "{returns}"
        # Each class is made anew, as in another program.
        source = f"""{self.types}
{head}
    got = dict(locals()); [got.pop(each, None) for each in ("items", "channel", "ctx")], seen.append(got)
    {body}
def bound({{takes}}): return dict(locals())
class Contract(Protocol):
    @wsrpc.method(deprecated={self.deprecated!r})
    async def f(self, {{takes}}) -> {answer}: ...
"""
        for name in ("takes", "returns", "gives", "sends", "talks"):
            source = source.replace(f"{{{name}}}", getattr(self, name))
        exec(compile(source, "<version>", "exec", dont_inherit=True), self.names)

    def value(self, source: str) -> Any:
        return eval(source, self.names)

    def describe(self) -> Description:
        server = Server()
        if self.kind and self.emits:
            server.declare(self.names["Contract"], requests=self.emits == "request")
        elif self.kind:
            self.handled_by(server)
        return describe(server)

    def handled_by(self, side: Any) -> None:
        side.on("f", self.names["f"], deprecated=self.deprecated, **self.options)

    def with_oldest_names(self, arguments: dict[str, Any]) -> dict[str, Any]:
        oldest = {
            each.name: [each.name, *older_names_of(each.type)][-1]
            for each in introspect(self.names["f"]).parameters
            if each.source in ("wire", "rest")
        }
        return {oldest.get(name, name): value for name, value in arguments.items()}

    def sent(self) -> tuple[tuple[Any, ...], dict[str, Any], list[Any]]:
        """Return the arguments of the call, all of them by name with defaults, and the uploaded items."""
        args: tuple[Any, ...] = self.value(f"(lambda *args: args)({self.call})")
        return args, self.names["bound"](*args), [self.value(self.items)] if self.kind in SENDING else []


async def played_by_url(caller: Version, handler: Version) -> Outcome:
    """The same, with the names of the arguments."""
    return await played(caller, handler, by_url=caller.kind in ("value", "stream") and not caller.emits)


async def played(caller: Version, handler: Version, *, by_url: bool = False) -> Outcome:
    """Let a caller of one version call a handler of the other, both written by hand, and return what happens."""
    server, client = Server(), Client()
    if handler.kind:
        handler.handled_by(client if handler.emits else server)
    if not caller.kind:
        return "works"  # nothing is sent
    args, by_name, items = caller.sent()
    if by_url:
        try:
            found, named = handler_of(server, None, "f"), in_json(dict(islice(by_name.items(), len(args))))
            args = (named,) if found is None else (*placed("f", found.facts.parameters, named),)
        except BadArguments:
            return "fails"
    returns = caller.value(caller.returns)
    async with connect(server, client=client, principal="ada"):
        if caller.emits:
            return await _outcome(caller, handler, _from_server(server, client, caller))
        more: dict[str, Any] = {"send": _each(items)} if items and caller.kind != "messages" else {}
        if caller.kind == "conversation":
            return await _outcome(caller, handler, client.open_channel("f", *args))
        if caller.kind in STREAMS:
            if caller.again:
                async with client.stream("f", *args, key=caller.key) as stream:
                    assert [each async for each in stream]
                await asyncio.sleep(caller.again)
            answer = client.stream("f", *args, returns=returns, key=caller.key, **more)
            return await _outcome(caller, handler, answer)
        if caller.kind == "upload" and handler.kind in ("stream", "exchange"):
            more["timeout"] = 60  # both sides wait: for the caller's `start`, and for the handler's
        return await _outcome(caller, handler, client.request("f", *args, returns=returns, **more))


async def _from_server(server: Server, client: Client, caller: Version) -> Any:
    """Call or emit, as the program that has clients of another version."""
    client.on("sync", lambda: None)
    args, *_ = caller.sent()
    [peer] = server.peers
    if caller.emits == "request":
        return await peer.request("f", *args, returns=caller.value(caller.returns))
    await peer.emit("f", *args)
    await peer.request("sync")
    return NOTHING


NOTHING = object()
"""The answer to an event."""


async def _outcome(
    caller: Version, handler: Version, answer: Any, read: Callable[[Any], Any] = lambda got: got
) -> Outcome:
    """Wait for the answer of a call, and return what has happened.

    Args:
        read: makes what a generated client has got an object of the caller's classes.
    """
    got: list[Any] = []
    try:
        if caller.kind in STREAMS:
            async with answer as stream:
                if caller.kind == "messages":
                    await stream.send(caller.value(caller.items))
                got = [each async for each in stream]
        elif caller.kind == "conversation":
            async with await answer:
                pass
        elif (found := await answer) is not NOTHING:
            got = [found]
    except WsrpcError:
        return "fails"
    return outcome(caller, handler, [read(each) for each in got])


def outcome(caller: Version, handler: Version, got: list[Any]) -> Outcome:
    """Return what has happened to a call that has not failed, and that has got these values."""
    if not handler.got:
        return "fails" if handler.kind else "meaning"
    args, by_name, items = caller.sent()
    seen, *again = handler.got
    if again:
        return "meaning"
    by_name, seen = caller.with_oldest_names(by_name), handler.with_oldest_names(seen)
    given = [handler.value(handler.gives)] * len(got)
    lost = differs(meant(items), meant(seen.pop("items", [])), read_by_handler=True)
    if lost or differs(meant(by_name), meant(seen), read_by_handler=True, passed=args):
        return "meaning"
    return "meaning" if got and differs(meant(given), meant(got), read_by_handler=False) else "works"


# ---------------------------------------------------------------- generated clients

_encode = msgspec.json.Encoder(enc_hook=make_enc_hook(None)).encode


def in_json(value: Any) -> Any:
    return msgspec.json.decode(_encode(value))


def as_type(value: Any, tp: Any) -> Any:
    """Return what has the type ``tp``, and is in JSON what ``value`` is."""
    return converter(tp)(in_json(value))


def as_own(value: Any, tp: Any) -> Any:
    """Return the same, but leave what the class that was written by hand refuses as it is."""
    try:
        return as_type(value, tp)
    except msgspec.ValidationError:
        return value


async def played_by_generated(caller: Version, handler: Version) -> Outcome:
    """The same, with a client that is generated from the description of its version."""
    server, client = Server(), Client()
    with loaded(client_module((handler if caller.emits else caller).describe())) as module:
        if caller.emits and handler.kind:
            client.implement(module.MainEvents, _implementation(handler, _member(module.MainEvents)))
        if handler.kind and not caller.emits:
            handler.handled_by(server)
        if not caller.kind or not (caller.emits or hasattr(module, "main")):
            return "works"  # nothing is sent
        async with connect(server, client=client, principal="ada"):
            if caller.emits:
                return await _outcome(caller, handler, _from_server(server, client, caller))
            member = _member(module.Main)
            args, _, items = caller.sent()
            proxy = module.main(client)
            options: Any = {"key": caller.key} if caller.key else {}
            if caller.kind == "upload" and handler.kind in ("stream", "exchange"):
                options["timeout"] = 60
            call = getattr(wsrpc.with_options(proxy, **options) if options else proxy, member.name)
            types = [each.type for each in member.parameters]
            passed = [as_type(each, types[min(n, len(types) - 1)]) for n, each in enumerate(args)]
            source = member.source
            more = {} if source is None else {source.name: _each([as_type(each, source.type) for each in items])}
            returns = caller.value(caller.returns)
            return await _outcome(caller, handler, call(*passed, **more), lambda got: as_own(got, returns))


def _member(contract: Any) -> ContractMember:
    [member] = read_contract(contract, "a test").members
    return member


def _implementation(handler: Version, member: ContractMember) -> Any:
    """Return an object that implements the generated contract of what the server calls."""
    own = introspect(handler.names["f"]).parameters
    defaults = {each.name: each.default for each in member.parameters}
    shown = [
        f"*{p.name}" if p.source == "rest" else p.name if p.required else f"{p.name}=defaults[{p.name!r}]"
        for p in member.parameters
    ]

    def called(*args: Any) -> Any:
        # The description does not say each default. Who writes the handler chooses one.
        args = tuple(mine.default if value is ... else value for value, mine in zip(args, own, strict=True))
        read = [
            tuple(as_own(each, mine.type) for each in value) if mine.source == "rest" else as_own(value, mine.type)
            for value, mine in zip(args, own, strict=True)
        ]
        handler.got.append(dict(zip([mine.name for mine in own], read, strict=True)))
        return as_type(handler.value(handler.gives), member.result) if handler.emits == "request" else None

    names: dict[str, Any] = {"defaults": defaults, "called": called}
    given = "".join(f"{each.name}, " for each in member.parameters)
    exec(f"class Page:\n    def {member.name}(self, {', '.join(shown)}): return called({given})", names)
    return names["Page"]()


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
        return {str(name): meant(each) for name, each in value.items()}
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
