"""Text from the other side, wherever it ends up: short, on one line, without control characters; and not too often."""

from __future__ import annotations

import asyncio
import gc
import io
import json
import logging
import pickle
import re
from collections.abc import Callable, Iterator
from typing import Any, Literal

import pytest
from core_driver import Driven, messages, rejection, turns
from hypothesis import given, settings
from hypothesis import strategies as st
from leftovers import turns_until
from raw_websocket import CLOSE, TEXT, raw_client

from wsrpc import (
    BadArguments,
    BadResult,
    ChannelClosed,
    CloseInfo,
    ConnectFailed,
    ConnectionLost,
    Context,
    Handshake,
    HandshakeRejected,
    Limits,
    Peer,
    RemoteError,
    RequestTimeout,
    RpcError,
    Server,
    WsrpcError,
)
from wsrpc._base import logs
from wsrpc._base.logs import for_log
from wsrpc.errors import PeerError, ProtocolError, short
from wsrpc.transport import ConnectionInfo

EVIL = "x\n12:00:00 CRITICAL everything is lost\r\x1b[2J\u202e\u2028\x85\ud800"
LONG = EVIL + "y" * 3_000_000
UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
LONGEST = 1200


def is_safe(text: str) -> bool:
    """Whether it is one line of bounded length that a terminal shows as it is, and that can be encoded."""
    return len(text) <= LONGEST and UNSAFE.search(text) is None and len(text.splitlines()) <= 1


ERRORS: dict[str, Callable[[Any], WsrpcError]] = {
    "RpcError": RpcError,
    "RemoteError": lambda text: RemoteError(text, "code", {text: [text]}, {"name": text}),
    "its code": lambda text: RemoteError("no", text),
    "thrown text": RemoteError.of_value,
    "thrown value": lambda text: RemoteError.of_value({text: [text, {"more": text}]}),
    "BadArguments": BadArguments,
    "BadResult": lambda text: BadResult(f"the answer is not what was asked for: {text}"),
    "ConnectionLost": lambda text: ConnectionLost(4000, text),
    "not sent": lambda text: ConnectionLost(4000, text, "not_sent"),
    "ConnectFailed": lambda text: ConnectFailed(2, OSError(text)),
    "HandshakeRejected": lambda text: HandshakeRejected(403, text, {"x-from": text}),
    "RequestTimeout": lambda text: RequestTimeout(text, 1.0),
    "ChannelClosed": lambda text: ChannelClosed(text, RemoteError(text)),
    "closed with a value": lambda text: ChannelClosed("room", [text, {text: text}]),
    "PeerError": lambda text: PeerError("peer", text),
    "ProtocolError": ProtocolError,
}


@pytest.mark.parametrize("text", [EVIL, LONG], ids=["evil", "long"])
@pytest.mark.parametrize("kind", ERRORS)
def test_what_an_error_says_is_one_short_line(kind: str, text: str) -> None:
    error = ERRORS[kind](text)
    back = pickle.loads(pickle.dumps(error)) if kind != "ConnectFailed" else error
    for one in (error, back):
        assert is_safe(str(one)) and is_safe(repr(one))
        assert type(error).__name__ in repr(one)
    assert is_safe(str(Exception(error)))  # within another one's arguments


@given(st.text(st.characters(), max_size=3000), st.sampled_from(sorted(ERRORS)))
@settings(max_examples=300)
def test_any_text_becomes_one_bounded_line(text: str, kind: str) -> None:
    error = ERRORS[kind](text)
    stream = io.StringIO()
    record = logging.LogRecord("wsrpc", logging.ERROR, __file__, 1, "%s: %s", (text, error), (type(error), error, None))
    handler = logging.StreamHandler(stream)
    assert logging.getLogger("wsrpc").filter(record)
    handler.emit(record)
    written = stream.getvalue()
    lines = written.removesuffix("\n").split("\n")
    assert len(lines) == 2  # the message, and the exception
    assert all(len(line) <= 2 * LONGEST and UNSAFE.search(line) is None for line in lines)
    assert is_safe(str(error)) and is_safe(repr(error))


@pytest.mark.parametrize(
    "text",
    [
        "too much",
        "Prix\u202f: 10\xa0€",
        "👩‍💻 شكرا, שלום, ありがとう",
        r"C:\new",
        "x" * 1000,
        "wss://host/?a=b",
        "{0} %s",
    ],
)
def test_an_honest_text_stays_as_it_is(text: str) -> None:
    for error in (RpcError(text), RemoteError(text), BadArguments(text), RemoteError.of_value(text)):
        assert str(error) == error.message == text


def test_the_attributes_hold_everything_as_it_came() -> None:
    error = RemoteError(LONG, "c", LONG, {"stack": LONG})
    assert (error.message, error.data, error.fields["stack"]) == (LONG, LONG, LONG)
    assert ConnectionLost(4000, EVIL).reason == EVIL
    assert ChannelClosed("room", LONG).reason == LONG
    assert HandshakeRejected(403, EVIL).body == EVIL
    assert str(RemoteError("x" * 1500)).endswith("x… (500 more characters)")
    assert str(RemoteError("a\tb\n")) == r"a\tb\n"


def test_what_describes_a_connection_is_safe_too() -> None:
    headers = {"origin": LONG, "host": "here"}
    target = "/" + LONG.replace(
        "\ud800", ""
    )  # adapters decode the bytes of the request, which contain no such character
    handshake = Handshake(target, headers, remote=(LONG, 1))
    info = ConnectionInfo(target=target, origin=LONG)
    for thing in (handshake, info, CloseInfo(4000, EVIL)):
        assert UNSAFE.search(repr(thing)) is None
    assert len(repr(info)) < LONGEST


# ---------------------------------------------------------------- from the wire into the log


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """What a plain handler writes of everything that is logged, asyncio's own lines included."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("LINE %(levelname)s %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    yield stream
    root.removeHandler(handler)


def check(stream: io.StringIO) -> str:
    """Nothing stands at the beginning of a line that was not written there by a handler or by Python."""
    everything = stream.getvalue()
    own = (
        "LINE ",
        "Traceback ",
        "  ",
        "wsrpc.",
        "asyncio.",
        "ValueError",
        "The above",
        "During ",
        "source_traceback: ",
        "future: ",
    )
    for line in everything.split("\n"):
        assert line == "" or line.startswith(own), line[:200]
        assert len(line) <= 2 * LONGEST and UNSAFE.search(line) is None
    assert "\nx" not in everything and "\n12:00:00" not in everything
    return everything


async def test_an_error_that_a_handler_lets_through(written: io.StringIO) -> None:
    server = Server()

    @server.on("greet")
    async def greet(peer: Peer) -> str:
        name = await peer.request("name", returns=str)
        return f"Hello, {name}!"

    async with asyncio.timeout(8), server.listen() as listener, raw_client(listener.port) as raw:
        await raw.send(raw.frame(TEXT, '{"i":1,"a":["greet"]}'))
        asked = json.loads((await raw.next_of(TEXT)).payload)
        await raw.send(
            raw.frame(TEXT, json.dumps({"i": asked["i"], "_": 1, "e": {"message": LONG[:-1].replace("\ud800", "")}}))
        )
        answer = json.loads((await raw.next_of(TEXT)).payload)
    assert answer["e"]["message"] == "internal error"
    everything = check(written)
    assert "RemoteError: x\\n12:00:00 CRITICAL" in everything and "more characters)" in everything
    assert "in greet" in everything  # it is a traceback


@pytest.mark.parametrize("end", ["reject", "cancel with text", "cancel with a value", "cancel with an error"])
async def test_whatever_ends_a_call_and_is_not_caught(end: str, written: io.StringIO) -> None:
    """In a task of the user's own: the event loop writes the traceback, and the representation of the task."""
    d = Driven()
    keep: list[asyncio.Task[Any]] = []

    async def ask() -> None:
        await d.peer.request("name")

    @d.peer.on("work")
    async def work() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError as exc:
            logging.getLogger("application").exception("stopped: %s", exc)
            raise

    if end == "reject":
        keep.append(asyncio.create_task(ask()))
        await turns()
        d.feed({"i": d.take()[-1]["i"], "_": 1, "e": {"message": EVIL[:-1], "code": "c", "more": EVIL[:-1]}})
        await turns()
        keep.clear()
        gc.collect()
        await turns()
        assert "exception was never retrieved" in check(written)
    else:
        reason: Any = {"cancel with text": EVIL[:-1], "cancel with a value": [EVIL[:-1]] * 5000}.get(end)
        d.feed({"i": 1, "a": ["work"]})
        await turns()
        flagged = {} if reason is not None else {"_": 1}
        d.feed({"i": 1, "x": {"message": EVIL[:-1]} if reason is None else reason, **flagged})
        await turns()
        assert "stopped: " in check(written)


async def test_a_short_reason_is_what_the_cancelled_handler_gets() -> None:
    d = Driven()
    got: list[object] = []

    @d.peer.on("work")
    async def work(ctx: Context) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError as exc:
            got.append((exc.args[0], ctx.cancel_reason))
            raise

    reasons: list[Any] = ["enough", {"b": [1], "a": 2}, [1, 2], 0, "a\nb"]
    for number, reason in enumerate(reasons, 1):
        d.feed({"i": number, "a": ["work"]})
        await turns()
        await d.fed({"i": number, "x": reason})
    assert got == [*((reason, reason) for reason in reasons[:-1]), (r"a\nb", "a\nb")]


async def test_an_error_that_is_shown_to_the_caller_is_shown_as_it_is() -> None:
    d = Driven(expose_errors=True)

    @d.peer.on("relay")
    async def relay(peer: Peer) -> None:
        await peer.request("name")

    @d.peer.on("relay by hand")
    async def relay_by_hand(peer: Peer) -> None:
        try:
            await peer.request("name")
        except RemoteError as error:
            raise RpcError(error.message, error.code, error.data) from error

    text = "two\nlines, and " + "z" * 5000
    for number, event in enumerate(("relay", "relay by hand"), 1):
        d.feed({"i": number, "a": [event]})
        await turns()
        [asked] = d.take()
        sent = await d.fed({"i": asked["i"], "_": 1, "e": {"message": text}})
        assert rejection(sent, number)["message"] == text


async def test_values_in_texts_about_arguments(written: io.StringIO) -> None:
    d = Driven()

    def typed(size: Literal["s", "m"], more: dict[str, int] | None = None) -> None: ...

    d.peer.on("typed", typed)
    evil = EVIL[:-1]
    d.feed({"a": ["typed", evil]})
    for message in (
        ["typed", LONG[:-1].replace("\ud800", "")],
        ["typed", "s", {evil: "no"}],
        [evil],
        ["typed", "s", {evil: evil}],
    ):
        sent = await d.fed({"i": 1, "a": message})
        assert len(rejection(sent, 1)["message"]) < LONGEST
    check(written)


async def test_raw_functions_may_let_an_error_through(written: io.StringIO) -> None:
    server = Server()

    @server.serve_raw
    async def serve(connection: Any) -> None:
        await connection.receive()
        raise RpcError(EVIL)

    async with asyncio.timeout(8), server.listen() as listener, raw_client(listener.port) as raw:
        await raw.send(raw.frame(TEXT, "go"))
        assert (await raw.next_of(CLOSE)).code == 1008
        await raw.send(raw.close_frame())
        raw.drop()
        await turns_until(lambda: not server.raw_connections)
    check(written)


@pytest.mark.parametrize("zone", ["\x1b[2J", "a" * 5000, "a b"])
async def test_an_address_that_a_proxy_tells_is_an_address(zone: str) -> None:
    server = Server(trusted_proxies=["10.0.0.1"])
    handshake = Handshake("/", {"x-forwarded-for": f"fe80::1%{zone}"}, remote=("10.0.0.1", 5))
    await server.handshake(handshake)
    assert handshake.remote == ("10.0.0.1", 5)
    named = Handshake("/", {"x-forwarded-for": "fe80::1%eth0"}, remote=("10.0.0.1", 5))
    await server.handshake(named)
    assert named.remote == ("fe80::1%eth0", 0)


def test_a_traceback_is_python_s_own_but_for_texts_of_several_lines() -> None:
    try:
        try:
            try:
                raise ValueError("first\nline")
            except ValueError as exc:
                raise ExceptionGroup("all", [KeyError("k"), RemoteError("a\nb")]) from exc
        except ExceptionGroup:
            raise LookupError("last")  # noqa: B904
    except LookupError as exc:
        exc.add_note("a\nnote")
        record = logging.LogRecord("wsrpc", logging.ERROR, "", 1, "m", (), (type(exc), exc, exc.__traceback__))
    assert logging.getLogger("wsrpc").filter(record)
    text = record.exc_text or ""
    places = [
        "Traceback (most recent call last):",
        r"ValueError: first\nline",
        "The above exception was the direct cause of the following exception:",
        "ExceptionGroup: all (2 sub-exceptions)",
        "  KeyError: 'k'",
        r"  wsrpc.errors.RemoteError: a\nb",
        "During handling of the above exception, another exception occurred:",
        "LookupError: last",
        r"a\nnote",
    ]
    assert [line for line in text.split("\n") if line in places and line != places[0]] == places[1:]
    assert text.count(places[0]) == 3 and 'raise LookupError("last")' in text
    assert record.exc_info is not None  # for handlers that look at the exception itself


# ---------------------------------------------------------------- how often


async def test_the_first_event_with_wrong_arguments_is_a_warning_and_further_ones_are_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    d = Driven()

    def add(a: int, b: int) -> int:
        return a + b

    d.peer.on("add", add)
    d.peer.on("other", add)
    for _ in range(50):
        d.feed({"a": ["add", 1, "2"]}, {"a": ["other"]}, {"a": ["add", 1, None]})
    await turns()
    [text] = messages(caplog)
    assert "event 'add' was dropped: add(): argument 'b' (2nd): expected int, got str" in text
    assert "peer.ignored" in text
    assert d.ignored == {"wrong arguments": 150}
    sent = await d.fed({"i": 1, "a": ["add", 1]})
    assert rejection(sent, 1)["code"] == "wsrpc.bad_arguments"
    assert d.ignored == {"wrong arguments": 150} and len(messages(caplog)) == 1


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time of the log, which stands still."""
    now = [1000.0]
    monkeypatch.setattr(logs, "monotonic", lambda: now[0])
    return now


async def test_one_connection_cannot_flood_the_log_with_tracebacks(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    d = Driven()

    @d.peer.on("fail")
    def fail() -> None:
        raise ValueError("mine")

    for _ in range(1000):
        d.feed({"a": ["fail"]})
    assert len(messages(caplog)) == 100
    assert d.peer.stats().errors == 1000  # what is not written is counted
    clock[0] += 2.0
    d.feed({"a": ["fail"]})
    assert len(messages(caplog)) == 102
    assert messages(caplog)[100] == "900 log lines were left out: too many in a short time"
    d.feed({"a": ["fail"]}, {"a": ["fail"]})
    assert len(messages(caplog)) == 103
    caplog.clear()
    d.transport.lose()  # the end is always written, and what was left out before it
    await turns()
    caplog.set_level(logging.INFO, "wsrpc")
    assert messages(caplog) == ["1 log lines were left out: too many in a short time"]


async def test_connections_that_come_again_and_again_cannot_either(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    server = Server()
    for _ in range(3000):
        with pytest.raises(HandshakeRejected):
            await server.handshake(Handshake("/", {"host": "here", "origin": f"https://{'x' * 5000}.example"}))
    assert len(messages(caplog)) == 1000
    assert all(len(text) < LONGEST for text in messages(caplog))
    assert server.stats().refused == {403: 3000}
    clock[0] += 1.0

    @server.on_handshake
    def gate(handshake: Handshake) -> None:
        raise LookupError("mine")

    caplog.clear()
    for _ in range(3000):
        with pytest.raises(HandshakeRejected):
            await server.handshake(Handshake("/", {"host": "here"}))
    assert len(messages(caplog)) == 101
    assert messages(caplog)[0] == "2000 log lines were left out: too many in a short time"


async def test_many_connections_share_what_their_server_may_write(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    server = Server(limits=Limits(close_timeout=2.0))

    @server.on("fail")
    def fail() -> None:
        raise ValueError("mine")

    async with asyncio.timeout(30), server.listen() as listener:
        for _ in range(15):
            async with raw_client(listener.port) as raw:
                await raw.send(raw.frame(TEXT, '{"a":["fail"]}') * 100, raw.frame(TEXT, '{"i":1,"a":["nobody"]}'))
                await raw.next_of(TEXT)
    # Where that takes long, some of the lines are about handlers that hold the event loop.
    assert 900 <= sum("failed [" in text for text in messages(caplog)) <= 1000
    assert server.stats().errors == 1500


# ---------------------------------------------------------------- how long it takes


class Counted(list[Any]):
    """A list that counts how often it or a list inside of it is looked through."""

    looks = 0

    def __iter__(self) -> Iterator[Any]:
        Counted.looks += 1
        return super().__iter__()


def test_only_as_much_of_a_value_is_looked_at_as_is_shown() -> None:
    value: Any = 0
    for _ in range(6):
        value = [value] * 29
    shown = short(value)
    assert shown.startswith("[[[[[") and len(shown) <= 200

    wide: Any = Counted()
    wide = Counted([Counted([Counted([1] * 30)] * 30)] * 30)
    Counted.looks = 0
    assert len(short({"key": [wide] * 30})) <= 200
    assert Counted.looks < 300, "not 30 x 30 x 30"


def test_the_keys_of_a_large_object_are_not_sorted_to_show_the_first() -> None:
    class Key(str):
        compared = 0

        def __lt__(self, other: str) -> bool:
            Key.compared += 1
            return super().__lt__(other)

        __hash__ = str.__hash__

    assert short({Key(f"k{n}"): n for n in range(1000)}).startswith("{'k0': 0, 'k1': 1, ")
    assert Key.compared == 0


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("ws://h/p?token=abc", "ws://h/p?…"),
        ("'wss://u:secret@h/p?secret', then what?", "'wss://…@h/p?… then what?"),
        ("/p?a=1&b=2 and ?b=3", "/p?… and ?…"),
        ("really? yes", "really? yes"),
        ("who?me", "who?me"),
        ("://" * 100, "://" * 100),
    ],
)
def test_queries_and_passwords_of_urls_are_left_out(text: str, shown: str) -> None:
    assert for_log(text) == shown
