"""Which values arrive as what: values × formats × directions.

A *format* is how two sides encode: JSON with a plain peer, MessagePack that two wsrpc peers have negotiated, or
MessagePack that both set as their codec. A *direction* is a place of a value in a message: an argument, a result, the
data of an error, an item, the reason of a cancellation, and so on.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import math
from base64 import b64encode
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from types import MappingProxyType
from typing import Any, NamedTuple

import attrs
import msgspec
import pydantic
import pytest
from core_driver import Driven
from leftovers import nothing_left as nothing_left
from stream_driver import decoded
from waiting import settled

from wsrpc import AnonymousChannel, Client, Context, KeepLatest, Limits, Peer, Server
from wsrpc.codecs import Codec, JsonCodec, MsgpackCodec
from wsrpc.errors import BadResult, HandlerFailed, MessageTooBig, RemoteError, RpcError
from wsrpc.testing import connect

pytestmark = pytest.mark.usefixtures("nothing_left")

Side = Client | Peer

# ---------------------------------------------------------------- values


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Blob(enum.Enum):
    FIRST = b"\xff"


@dataclass
class Cup:
    drink: str
    size: int = 2


class Point(msgspec.Struct):
    x: int
    y: float = 0.5


@dataclass(slots=True)
class Entry:
    _id: str
    _rank: int = field(init=False, default=1)


class Page(msgspec.Struct):
    _id: str


class Aliased(pydantic.BaseModel):
    id: str = pydantic.Field(alias="_id")
    _cached: int = 5


@attrs.define
class Document:
    _id: str
    name: str = ""


class Account(pydantic.BaseModel):
    name: str
    since: date


class Login(pydantic.BaseModel):
    password: pydantic.SecretStr


class Area(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    width: int

    @pydantic.computed_field  # type: ignore[prop-decorator]
    @property
    def square(self) -> int:
        return self.width**2


class Markup(str):
    """Text as of markupsafe or Django."""

    def __str__(self) -> str:
        return self


class Count(int):
    def __int__(self) -> int:
        raise AssertionError("the number itself is sent")

    __str__ = __repr__ = __index__ = __int__  # type: ignore[assignment]


class Ratio(float):
    """A number like ``numpy.float64``."""

    def __repr__(self) -> str:
        return f"Ratio({float(self)})"


class Price(Decimal): ...


class Stamp(datetime):
    """A datetime like pandas.Timestamp."""


class Day(date): ...


class Clock(time): ...


class Span(timedelta): ...


class Octets(bytes): ...


class Buffer(bytearray): ...


class Tag(Markup, enum.Enum):
    NEW = "new"


class Money:
    """A class that only the application's own hook can encode."""

    def __init__(self, cents: int) -> None:
        self.cents = cents

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Money) and other.cents == self.cents

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Money({self.cents})"


def encode_money(value: object) -> Any:
    if isinstance(value, Money):
        if value.cents < 0:
            raise LookupError("no such money")
        return {"cents": value.cents}
    raise NotImplementedError


def decode_money(tp: type[Any], value: Any) -> Any:
    if tp is Money and "cents" in value:
        return Money(value["cents"])
    raise ValueError("no money")


NAN, INFINITY = math.nan, math.inf
BLOB = bytes(range(256))
BASE64 = b64encode(BLOB).decode()
INSTANT, INSTANT_TEXT = datetime(2026, 1, 2, 3, 4, 5, 6, UTC), "2026-01-02T03:04:05.000006Z"
STAMP = Stamp(2026, 1, 2, 3, 4, 5, 6, UTC)


class Row(NamedTuple):
    """A value, and what arrives of it by JSON, by negotiated MessagePack, and by MessagePack as the codec.

    Without ``negotiated`` and ``msgpack``, the same as by JSON.
    """

    value: Any
    json: Any
    negotiated: Any = ...
    msgpack: Any = ...

    def arrives(self, format: str) -> Any:
        cell = getattr(self, format)
        return self.json if cell is ... else cell


def deep(levels: int) -> Any:
    value: Any = "[{" * 200
    for level in range(levels):
        value = [value] if level % 2 else {"k": value}
    return value


def same(value: Any) -> Row:
    return Row(value, value)


def beyond_json(value: Any, json: Any) -> Row:
    """A row of what only MessagePack as the codec keeps as it is."""
    return Row(value, json, json, value)


VALUES = {
    "null": same(None),
    "true": same(True),
    "minus zero": same(-0.0),
    "2**53 + 1": same(2**53 + 1),
    "the least of 64 bits": same(-(2**63)),
    "the largest of 64 bits": same(2**64 - 1),
    "the largest float": same(1.7976931348623157e308),
    "nan": beyond_json(NAN, None),
    "nan in a tuple in an object": Row({"a": (NAN, "x")}, {"a": [None, "x"]}, ..., {"a": [NAN, "x"]}),
    "text": same('ü \U0001f375 \x00 \u2028 \ufeff \\ " NaN'),
    "text like a message": same('{"a":["e"]},[{"'),
    "bytes": Row(BLOB, BASE64, BLOB, BLOB),
    "a memoryview": Row(memoryview(BLOB), BASE64, BLOB, BLOB),
    "bytes like nan": Row(b"\xcb\x7f\xff", "y3//", b"\xcb\x7f\xff", b"\xcb\x7f\xff"),
    "text and a number like nan": same([["\u02ff", 0xCB7F]]),
    "bytes in an object": Row([{"k": b"x"}, 1e308], [{"k": "eA=="}, 1e308], [{"k": b"x"}, 1e308], [{"k": b"x"}, 1e308]),
    "an array": same([1, [2, []], {"k": None}]),
    "a set": Row({1}, [1]),
    "items": Row({"a": 1}.items(), [["a", 1]]),
    "odd names": same({"": 0, "__proto__": {"x": 1}, "__class__": 1, "constructor": 2, "\x00": 3}),
    "a mapping": Row(MappingProxyType({"a": range(2)}), {"a": [0, 1]}),
    "keys that collide": beyond_json({"1": "text", 1: "number"}, {"1": "number"}),
    "bytes as a key": beyond_json({b"\xff": 0}, {"/w==": 0}),
    "an instant as a key": beyond_json({INSTANT: 0}, {INSTANT_TEXT: 0}),
    "an enum of integers as a key": Row({Level.HIGH: 0}, {"3": 0}, ..., {3: 0}),
    "an enum of bytes as a key": Row({Blob.FIRST: 0}, {"/w==": 0}, ..., {b"\xff": 0}),
    "an instant": beyond_json(INSTANT, INSTANT_TEXT),
    "an instant elsewhere": Row(
        datetime(2026, 1, 2, 1, tzinfo=timezone(timedelta(hours=1))),
        "2026-01-02T01:00:00+01:00",
        ...,
        datetime(2026, 1, 2, tzinfo=UTC),
    ),
    "a date": Row(date(2026, 1, 2), "2026-01-02"),
    "a timedelta": Row(timedelta(seconds=90), "PT90S"),
    "a Decimal": Row(Decimal("1.50"), "1.50"),
    "an enum": Row(Colour.RED, "red"),
    "an enum of integers": Row(Level.HIGH, 3),
    "an enum of bytes": Row(Blob.FIRST, "/w==", b"\xff", b"\xff"),
    "a dataclass": Row(Cup("tea"), {"drink": "tea", "size": 2}),
    "a Struct": Row(Point(1), {"x": 1, "y": 0.5}),
    "a model": Row(Account(name="x", since=date(2026, 1, 2)), {"name": "x", "since": "2026-01-02"}),
    "fields that begin with _": Row(
        {"entry": Entry("1"), "page": [Page("2")], "aliased": Aliased(_id="3")},
        {"entry": {"_id": "1", "_rank": 1}, "page": [{"_id": "2"}], "aliased": {"_id": "3"}},
    ),
    "what the hook encodes": Row(Money(5), {"cents": 5}),
    "what the hook encodes, inside": Row(
        [{"k": (Money(5), NAN)}], [{"k": [{"cents": 5}, None]}], ..., [{"k": [{"cents": 5}, NAN]}]
    ),
    "a deep one": same(deep(50)),
    "a subclass of str": Row(Markup("<b>"), "<b>"),
    "a url of pydantic": Row([pydantic.HttpUrl("https://example.org/")], ["https://example.org/"]),
    "a subclass of int": Row(Count(5), 5),
    "a subclass of float": Row(Ratio(0.5), 0.5),
    "nan of a subclass": Row(Ratio("nan"), None, ..., NAN),
    "a subclass of Decimal": Row(Price("1.50"), "1.50"),
    "a subclass of datetime": Row(STAMP, INSTANT_TEXT, ..., INSTANT),
    "a subclass of date": Row(Day(2026, 1, 2), "2026-01-02"),
    "a subclass of time": Row(Clock(3, 4, tzinfo=UTC), "03:04:00Z"),
    "a subclass of timedelta": Row(Span(seconds=90), "PT90S"),
    "subclasses of bytes": Row([Octets(BLOB), Buffer(BLOB)], [BASE64, BASE64], [BLOB, BLOB], [BLOB, BLOB]),
    "a subclass in an enum": Row(Tag.NEW, "new"),
    "subclasses, inside": Row({"k": (Ratio(2), Cup(Markup("tea")))}, {"k": [2.0, {"drink": "tea", "size": 2}]}),
    "a subclass of str as a key": Row({Markup("x"): Markup("y")}, {"x": "y"}),
    "a subclass of int as a key": Row({Count(5): 0}, {"5": 0}, ..., {5: 0}),
    "a subclass of datetime as a key": Row({STAMP: 0}, {INSTANT_TEXT: 0}, ..., {INSTANT: 0}),
}
ONLY_JSON = {"2**64": same(2**64), "less than 64 bits": same(-(2**63) - 1), "2**100, inside": same([{"k": 2**100}])}
"""MessagePack as the codec refuses these. Negotiated, they travel as JSON."""

LOOP: list[Any] = []
LOOP.append(LOOP)
REFUSED: list[tuple[str, bool, Any, type[Exception]]] = [
    # whether there is a hook, the value, and what encoding raises in every format
    ("a class of others", False, Money(1), TypeError),
    ("one inside", False, {"k": [object()]}, TypeError),
    ("one that the hook does not know", True, object(), NotImplementedError),
    ("one that the hook fails for", True, [Money(-1)], LookupError),
    ("a complex key", False, {1j: 1}, TypeError),
    ("half a surrogate pair", True, "half \ud800", UnicodeEncodeError),
    ("half of one after bytes", False, [b"x", {"k": "\udfff"}], UnicodeEncodeError),
    ("half of one in a key", False, [{"k\udfff": 1}], UnicodeEncodeError),
    ("half of one beside a large integer", False, [2**63, Cup("\ud800", 2)], UnicodeEncodeError),
    ("what contains itself", True, LOOP, RecursionError),
    ("a secret, which would be masked", False, Login(password=pydantic.SecretStr("tea")), TypeError),
    ("what its own type refuses", False, [Area(width=2)], TypeError),
]
HALF_TEXTS = ("half \ud800", "\udfff", "k\udfff", "\ud800")
HALVES = dict(zip([row[0] for row in REFUSED if row[3] is UnicodeEncodeError], HALF_TEXTS, strict=True))
"""The text that the error shows, for rows of `REFUSED`."""
TOO_LARGE = [(name, False, row.value, OverflowError) for name, row in ONLY_JSON.items()]
KEYS: dict[str, Any] = {"an array as a key": (1, 2), "null as a key": None, "true as a key": True}
ONLY_MSGPACK = [(name, False, {key: 0}, TypeError) for name, key in KEYS.items()]
"""Only MessagePack as the codec can express these."""

# ---------------------------------------------------------------- formats


@asynccontextmanager
async def connected(
    format: str, *, hooks: bool = True, limits: Limits | None = None
) -> AsyncGenerator[tuple[Server, Client, Peer]]:
    """A client and a server that have agreed on ``format``."""
    options: dict[str, Any] = {"dec_hook": decode_money, "limits": limits}
    enc_hook = encode_money if hooks else None
    if format == "msgpack":
        options["codec"] = MsgpackCodec(enc_hook=enc_hook)
    else:
        options["codec"] = JsonCodec(enc_hook=enc_hook)
    server = Server(**options)
    async with connect(server, client=Client(extensions=format == "negotiated", **options)) as client:
        [peer] = server.peers
        server.on("sync", lambda: None)
        client.on("sync", lambda: None)
        await client.request("sync")  # from now on both sides know what the other one can
        yield server, client, peer
    await server.close()


FORMATS = pytest.mark.parametrize("format", ["json", "negotiated", "msgpack"])

# ---------------------------------------------------------------- directions
#
# Each sends `value` from the near side, or lets it get the value from the far side, and returns what arrives.


class Exchange:
    """Two sides. The handlers of the far one note what arrives, or give what is ``given``."""

    def __init__(self, near: Side, far: Side) -> None:
        self.near, self.far = near, far
        self.seen: list[Any] = []
        self.given: Any = None
        self.began = asyncio.Event()
        far.on("take", lambda one, given: self.seen.append(given))
        far.on("note", self.seen.append)
        far.on("give", lambda: self.given)
        far.on("items", lambda: iter([self.given]))
        for handler in (self.give_later, self.refuse, self.upload, self.talk, self.stay, self.wait):
            far.on(handler.__name__, handler)

    async def give_later(self) -> Any:
        await asyncio.sleep(0)
        return self.given

    def refuse(self) -> None:
        raise self.given

    async def upload(self, items: AsyncIterator[Any]) -> None:
        self.seen.extend([each async for each in items])

    async def talk(self, channel: AnonymousChannel) -> None:
        async for each in channel.events("say"):
            self.seen.append(each)
            await channel.emit("said")

    async def stay(self, channel: AnonymousChannel) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            self.seen.append(channel.close_reason)

    async def wait(self, ctx: Context) -> None:
        self.began.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.seen.append(ctx.cancel_reason)


def both_ways(client: Client, peer: Peer) -> tuple[Exchange, Exchange]:
    return Exchange(client, peer), Exchange(peer, client)


async def argument(x: Exchange, value: Any) -> Any:
    await x.near.request("take", 1, value)
    return x.seen.pop()


async def result(x: Exchange, value: Any) -> Any:
    x.given = value
    return await x.near.request("give")


async def later_result(x: Exchange, value: Any) -> Any:
    x.given = value
    return await x.near.request("give_later")


async def rejected_with(x: Exchange, error: RpcError) -> RemoteError:
    x.given = error
    with pytest.raises(RemoteError) as caught:
        await x.near.request("refuse")
    if isinstance(caught.value, HandlerFailed):
        raise caught.value
    return caught.value


async def error_data(x: Exchange, value: Any) -> Any:
    error = await rejected_with(x, RpcError("no", "E", value))
    assert (error.message[:2], error.code) == ("no", "E")
    return error.data


async def error_field(x: Exchange, value: Any) -> Any:
    return (await rejected_with(x, RpcError("no", fields={"why": value}))).fields.get("why")


async def event(x: Exchange, value: Any) -> Any:
    await x.near.emit("note", value)
    await x.near.request("sync")
    return x.seen.pop()


async def event_that_is_awaited(x: Exchange, value: Any) -> Any:
    waiting = asyncio.ensure_future(x.far.wait_for("note"))
    await asyncio.sleep(0)
    try:
        await x.near.emit("note", value)
        return await waiting
    finally:
        waiting.cancel()


async def item(x: Exchange, value: Any) -> Any:
    x.given = value
    [arrived] = [each async for each in x.near.stream("items")]
    return arrived


async def uploaded_item(x: Exchange, value: Any) -> Any:
    await x.near.request("upload", send=[value])
    return x.seen.pop()


async def event_of_a_conversation(x: Exchange, value: Any) -> Any:
    async with await x.near.open_channel("talk") as channel:
        await channel.emit("say", value)
        await channel.wait_for("said")
    return x.seen.pop()


async def reason_of_a_cancellation(x: Exchange, value: Any) -> Any:
    x.began.clear()
    asking = asyncio.ensure_future(x.near.request("wait"))
    await x.began.wait()
    asking.cancel(value)
    await asyncio.wait([asking])
    await x.near.request("sync")
    return x.seen.pop()


async def reason_of_an_abort(x: Exchange, value: Any) -> Any:
    await (await x.near.open_channel("stay")).abort(value)
    await x.near.request("sync")
    return x.seen.pop()


Direction = Callable[[Exchange, Any], Awaitable[Any]]
RAISES, FAILS, NO_REASON = "the sender gets the error", "the handler has failed", "arrives without it"
DIRECTIONS: list[tuple[Direction, str, str]] = [
    # what happens with a value that cannot be sent, and what its error calls the value
    (argument, RAISES, "argument 2 of 'take'"),
    (event, RAISES, "argument 1 of 'note'"),
    (event_that_is_awaited, RAISES, "argument 1 of 'note'"),
    (event_of_a_conversation, RAISES, "argument 1 of 'say'"),
    (uploaded_item, RAISES, "the item"),
    (result, FAILS, "the result"),
    (later_result, FAILS, "the result"),
    (error_data, FAILS, "the error"),
    (error_field, FAILS, "the error"),
    (item, FAILS, "the item"),
    (reason_of_a_cancellation, NO_REASON, "the reason"),
    (reason_of_an_abort, NO_REASON, "the reason"),
]


def shown(values: dict[str, Any]) -> dict[str, str]:
    """Values in a form that tells -0.0 from 0, and is equal for two NaNs."""
    return {name: repr(value) for name, value in values.items()}


@FORMATS
@pytest.mark.parametrize("direction", [direction for direction, *_ in DIRECTIONS], ids=lambda each: each.__name__)
async def test_what_arrives(direction: Direction, format: str) -> None:
    rows = VALUES if format == "msgpack" else VALUES | ONLY_JSON
    if direction in (reason_of_a_cancellation, reason_of_an_abort):
        rows = {name: row for name, row in rows.items() if row.value is not None}  # no reason at all
    expected = shown({name: row.arrives(format) for name, row in rows.items()})
    async with connected(format) as (_, client, peer):
        for x in both_ways(client, peer):
            assert shown({name: await direction(x, row.value) for name, row in rows.items()}) == expected


LOGGED = {RAISES: [], FAILS: [logging.ERROR], NO_REASON: [logging.WARNING]}
"""What is in the log about a value that cannot be sent, where the error has no caller."""


@FORMATS
@pytest.mark.parametrize(("direction", "outcome", "part"), DIRECTIONS, ids=lambda each: getattr(each, "__name__", ""))
async def test_what_cannot_be_sent(
    direction: Direction, outcome: str, part: str, format: str, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [*REFUSED, *(TOO_LARGE if format == "msgpack" else ONLY_MSGPACK)]
    for hooks in (False, True):
        async with connected(format, hooks=hooks) as (_, client, peer):
            for x in both_ways(client, peer):
                for name, hooked, value, error in rows:
                    if hooked is not hooks:
                        continue
                    caplog.clear()
                    if outcome is NO_REASON:
                        reason = await direction(x, value)
                        assert isinstance(reason, RemoteError) and reason.message == "Request aborted", name
                        said = caplog.text
                    else:
                        with pytest.raises(Exception) as caught:
                            await direction(x, value)
                        assert type(caught.value) is (error if outcome is RAISES else HandlerFailed), name
                        said = str(caught.value) if outcome is RAISES else caplog.text
                    if error is UnicodeEncodeError:
                        assert f"{part} has half of a surrogate pair in {HALVES[name]!r}: replace it" in said
                    assert [record.levelno for record in caplog.records if record.exc_info] == LOGGED[outcome], name
                assert await argument(x, "fine") == "fine"


@FORMATS
@pytest.mark.parametrize("direction", [result, later_result])
async def test_a_result_of_attrs_is_sent_in_full_or_not_at_all(
    direction: Direction, format: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with connected(format) as (_, client, peer):
        with pytest.raises(HandlerFailed):
            await direction(Exchange(client, peer), Document("1"))
        assert "Document._id would not be sent: rename it, or make the class a dataclass" in caplog.text
        with pytest.raises(TypeError, match=r"Document\._id would not be sent"):
            await client.request("sync", returns=Document)


async def test_what_arrives_of_a_message_to_many() -> None:
    """Each gets it in its own format, whatever the others speak."""
    server = Server(codec=JsonCodec(enc_hook=encode_money))
    seen: dict[str, dict[str, Any]] = {"json": {}, "negotiated": {}}
    rows = VALUES | ONLY_JSON
    async with connect(server, client=Client(extensions=False)) as plain, connect(server, client=Client()) as other:
        server.on("sync", lambda: None)
        room, waiting_room = server.room("all"), server.room("latest", slow=KeepLatest())
        for peer in server.peers:
            room.add(peer)
            waiting_room.add(peer)
        for format, client in (("json", plain), ("negotiated", other)):
            client.on("note", seen[format].__setitem__)
            client.of("news").on("note", seen[format].__setitem__)
            await client.request("sync")
        for emit in (server.emit, room.emit, waiting_room.emit, server.of("news").emit, room.of("news").emit):
            for name, row in rows.items():
                report = await emit("note", name, row.value)
                assert (report.sent, report.errors) == (2, ()), name
            for name, hooked, value, error in REFUSED:
                if hooked:
                    with pytest.raises(error):
                        await emit("note", name, value)
            await asyncio.gather(plain.request("sync"), other.request("sync"))
            for format, arrived in seen.items():
                assert shown(arrived) == shown({name: row.arrives(format) for name, row in rows.items()})
                arrived.clear()
    await server.close()


# ---------------------------------------------------------------- what cannot be decoded, or may not


def keys(count: int, key: bytes) -> bytes:
    """A map in MessagePack of so many equal keys."""
    return b"\xdf" + count.to_bytes(4, "big") + (key + b"\xc0") * count


JSON, MSGPACK = JsonCodec(), MsgpackCodec()
VALUES_LIMIT = 40_000
UNREADABLE, DEEP, MANY = "unreadable", "nested too deep", "too many values"
UNDECODED: dict[str, tuple[Codec, bytes, str, str]] = {
    # the encoded value, as what its message is counted, and what a caller is told
    "half a surrogate pair": (JSON, rb'"\ud800"', UNREADABLE, "has half of a surrogate pair"),
    "half of one in a key": (JSON, rb'{"\udfffx":1}', UNREADABLE, "has half of a surrogate pair"),
    "NaN": (JSON, b"NaN", UNREADABLE, "does not decode"),
    "nested too deep": (JSON, b"[" * 65 + b"]" * 65, DEEP, "nested more than 64 deep"),
    "too many numbers": (JSON, b"[0" + b",0" * 50_000 + b"]", MANY, "more than 40000 values"),
    "too many arrays": (JSON, b"[0" + b",[]" * 12_000 + b"]", MANY, "than 10000 arrays and objects"),
    "floats slow to read": (JSON, b"[0" + b",5e-324" * 5000 + b"]", MANY, "floats that take long to read"),
    "deep in MessagePack": (MSGPACK, b"\x91" * 65 + b"\xc0", DEEP, "nested more than 64 deep"),
    "numbers as keys": (MSGPACK, keys(8193, b"\x01"), MANY, "more than 8192 numbers as keys"),
}


class Undecoded:
    """A peer with running calls of each kind, and the messages with ``value`` that it gets. It reads none of them."""

    def __init__(self, codec: Codec, value: bytes) -> None:
        self.d = Driven(dialer=True, codec=codec, limits=Limits(values=VALUES_LIMIT))
        self.codec = codec
        self.value = value

    async def fed(self, **message: Any) -> list[Any]:
        """Feed a message, in which ``Undecoded.value`` stands for the value."""
        encode = msgspec.json.encode if self.codec.text else msgspec.msgpack.encode
        payload = encode(message, enc_hook=lambda _: msgspec.Raw(self.value))
        sent = await self.d.fed(payload.decode() if self.codec.text else payload)
        return decoded(sent)

    async def asks(self, asking: Awaitable[Any]) -> tuple[asyncio.Future[Any], int]:
        """Begin a call of this side; return its task and the id of its request."""
        task = asyncio.ensure_future(asking)
        await settled()
        return task, decoded(self.d.take())[-1]["i"]


VALUE: Any = object()
"""Stands for the value in a message."""


async def request_undecoded(u: Undecoded, said: str) -> None:
    for message in ({"i": 1, "a": ["take", 1, VALUE]}, {"i": 2, "a": ["take", VALUE], "c": "room"}):
        [answer] = await u.fed(**message)
        assert answer["i"] == message["i"] and answer["e"]["code"] == "wsrpc.bad_arguments"
        assert said in answer["e"]["message"]


async def event_undecoded(u: Undecoded, said: str) -> None:
    assert await u.fed(a=["take", VALUE]) == []
    assert await u.fed(a=["take", VALUE], c="room") == []


async def result_undecoded(u: Undecoded, said: str) -> None:
    asking, i = await u.asks(u.d.peer.request("ask"))
    await u.fed(i=i, d=VALUE)
    with pytest.raises(BadResult, match=f"the response to 'ask' .*{said}"):
        await asking


async def cancellation_undecoded(u: Undecoded, said: str) -> None:
    await u.fed(i=1, a=["wait"])
    [answer] = await u.fed(i=1, x=VALUE)
    assert answer["i"] == 1 and answer["e"]["message"] == "Request aborted"


async def item_undecoded(u: Undecoded, said: str) -> None:
    stream = u.d.peer.stream("numbers")
    reading, i = await u.asks(anext(stream))
    await u.fed(i=i, h=1)
    await u.fed(h=i, a=["next", {"value": 1, "done": False}])
    assert await reading == 1
    [abort] = await u.fed(h=i, a=["next", {"value": VALUE, "done": False}])
    assert abort["h"] == i and said in abort["x"]["message"]
    with pytest.raises(BadResult, match=said):
        await anext(stream)


async def abort_undecoded(u: Undecoded, said: str) -> None:
    opening, i = await u.asks(u.d.peer.open_channel("talk"))
    await u.fed(i=i, h=1)
    channel = await opening
    assert await u.fed(h=i, x=VALUE) == []
    assert channel.closed


@pytest.mark.parametrize("case", UNDECODED)
@pytest.mark.parametrize(
    "kind",
    [request_undecoded, event_undecoded, result_undecoded, cancellation_undecoded, item_undecoded, abort_undecoded],
    ids=lambda each: each.__name__,
)
async def test_a_message_that_is_not_decoded_ends_what_waits_for_it_and_nothing_else(
    kind: Callable[[Undecoded, str], Awaitable[None]], case: str
) -> None:
    codec, value, counted, said = UNDECODED[case]
    u = Undecoded(codec, value)
    ran: list[Any] = []

    def take(*given: Any) -> None:
        ran.append(given)

    u.d.peer.on("take", take)
    u.d.peer.of("room").on("take", take)
    u.d.peer.on("wait", asyncio.Event().wait)
    u.d.peer.on("fine", lambda: "fine")
    await kind(u, said)
    assert ran == []
    assert u.d.ignored == {counted: 2 if kind in (request_undecoded, event_undecoded) else 1}
    assert await u.fed(i=9, a=["fine"]) == [{"i": 9, "d": "fine"}]
    u.d.assert_empty()


# ---------------------------------------------------------------- what the other side would not take


@pytest.mark.parametrize(
    ("limits", "value"),
    [(Limits(message_bytes=2000), "x" * 2001), (Limits(values=100), [[]] * 101)],
    ids=["bytes", "values"],
)
@pytest.mark.parametrize(
    ("direction", "outcome"), [row[:2] for row in DIRECTIONS], ids=lambda each: getattr(each, "__name__", "")
)
async def test_what_is_too_big_for_the_other_side_is_not_sent(
    direction: Direction, outcome: str, limits: Limits, value: Any
) -> None:
    async with connected("negotiated", limits=limits) as (_, client, peer):
        for x in both_ways(client, peer):
            if direction in (error_data, error_field):
                assert await direction(x, value) is None, "the error arrives without it"
            elif outcome is NO_REASON:
                assert str(await direction(x, value)) == "Request aborted"
            else:
                with pytest.raises(MessageTooBig if outcome is RAISES else RemoteError) as caught:
                    await direction(x, value)
                assert "the other side takes" in str(caught.value)
                assert outcome is RAISES or str(caught.value).startswith("what the handler gave is too big: ")
            assert await argument(x, "fine") == "fine"
        assert not set(peer.ignored) - {"response to no request"}
