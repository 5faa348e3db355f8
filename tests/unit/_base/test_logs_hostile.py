"""Text from the other side, wherever it ends up: short, on one line, without control characters; and not too often."""

from __future__ import annotations

import asyncio
import gc
import io
import logging
import pickle
import re
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, Literal

import pytest
from core_driver import Driven, messages, rejection
from hypothesis import example, given, settings
from hypothesis import strategies as st
from waiting import settled

from wsrpc import BadArguments, ChannelClosed, ConnectFailed, Handshake, Server
from wsrpc._base import logs
from wsrpc.errors import ConnectionLost, HandshakeRejected, RemoteError, RequestTimeout, RpcError, WsrpcError, short

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
    "thrown text": RemoteError.of_value,
    "thrown value": lambda text: RemoteError.of_value({text: [text, {"more": text}]}),
    "ConnectionLost": lambda text: ConnectionLost(4000, text),
    "ConnectFailed": lambda text: ConnectFailed(2, OSError(text)),
    "HandshakeRejected": lambda text: HandshakeRejected(403, text, {"x-from": text}),
    "RequestTimeout": lambda text: RequestTimeout(text, 1.0),
    "ChannelClosed": lambda text: ChannelClosed(text, RemoteError(text)),
}


@given(st.text(st.characters(), max_size=3000))
@example(EVIL)
@example(LONG)
@settings(max_examples=60)
def test_any_text_becomes_one_bounded_line(text: str) -> None:
    for kind, make in ERRORS.items():
        error = make(text)
        back = pickle.loads(pickle.dumps(error)) if kind != "ConnectFailed" else error
        for one in (error, back):
            assert is_safe(str(one)) and is_safe(repr(one)) and type(error).__name__ in repr(one)
        assert is_safe(str(Exception(error)))  # within another one's arguments
        stream = io.StringIO()
        record = logging.LogRecord("wsrpc", logging.ERROR, "", 1, "%s: %s", (text, error), (type(error), error, None))
        vars(record).update(event=text, trace=text)
        assert logging.getLogger("wsrpc").filter(record)
        assert is_safe(vars(record)["event"]) and is_safe(vars(record)["trace"])
        logging.StreamHandler(stream).emit(record)
        lines = stream.getvalue().removesuffix("\n").split("\n")
        assert len(lines) == 2  # the message, and the exception
        assert all(len(line) <= 2 * LONGEST and UNSAFE.search(line) is None for line in lines)


HONEST = ["Prix\u202f: 10\xa0€", "👩‍💻 شكرا, שלום, ありがとう", r"C:\new", "x" * 1000, "{0} %s"]


def test_an_honest_text_stays_as_it_is_and_attributes_hold_any_text_as_it_came() -> None:
    for text in HONEST:
        for error in (RpcError(text), RemoteError(text), BadArguments(text), RemoteError.of_value(text)):
            assert str(error) == error.message == text
    error = RemoteError(LONG, "c", LONG, {"stack": LONG})
    assert (error.message, error.data, error.fields["stack"]) == (LONG, LONG, LONG)
    assert str(RemoteError("x" * 1500)).endswith("x… (500 more characters)")
    assert str(RemoteError("a\tb\n")) == r"a\tb\n"


# ---------------------------------------------------------------- from the wire into the log


async def test_errors_reasons_and_arguments_that_reach_the_log(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also what the event loop writes of a task of the user's own."""
    monkeypatch.setattr(caplog.handler, "formatter", logging.Formatter("%(message)s"))  # all tests share the handler
    d = Driven()
    evil = EVIL[:-1]

    @d.peer.on("work")
    async def work(size: Literal["s", "m"]) -> None:
        try:
            await d.peer.request("name")
        except asyncio.CancelledError as exc:
            logging.getLogger("application").exception("stopped: %s", exc)
            raise

    async def ask() -> None:
        await d.peer.request("name")

    asking = asyncio.create_task(ask())
    d.feed({"i": 1, "a": ["work", "s"]}, {"i": 2, "a": ["work", "m"]})
    await settled()
    asked = [message["i"] for message in d.take()]
    assert len(asked) == 3
    d.feed({"i": 1, "x": [evil] * 5000}, *({"i": number, "_": 1, "e": {"message": evil}} for number in asked))
    await settled()
    d.take()
    assert len(rejection(await d.fed({"i": 3, "a": ["work", evil * 1000]}), 3)["message"]) < LONGEST
    del asking
    gc.collect()
    await settled()
    said = ("exception was never retrieved", "stopped: ", "RemoteError: x\\n12:00:00", "in work")
    assert [text for text in said if text not in caplog.text] == []
    assert "\nx" not in caplog.text and "\n12:00:00" not in caplog.text
    assert all(len(line) <= 2 * LONGEST and UNSAFE.search(line) is None for line in caplog.text.split("\n"))


def test_a_traceback_is_python_s_own_but_for_texts_of_several_lines() -> None:
    try:
        try:
            raise ExceptionGroup("all", [KeyError("k"), RemoteError("a\nb")]) from ValueError("first\nline")
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
    assert text.count(places[0]) == 2 and 'raise LookupError("last")' in text
    assert record.exc_info is not None  # for handlers that look at the exception itself


# ---------------------------------------------------------------- how often


async def test_one_connection_cannot_flood_the_log_with_tracebacks(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = [1000.0]
    monkeypatch.setattr(logs, "time", SimpleNamespace(monotonic=lambda: now[0]))
    d = Driven()
    d.peer.on("fail", lambda: 1 / 0)
    d.feed(*[{"a": ["fail"]}] * 1000)
    assert len(messages(caplog)) == 100
    assert d.peer.stats().errors == 1000  # what is not written is counted
    now[0] += 2.0
    d.feed({"a": ["fail"]})
    assert len(messages(caplog)) == 102
    assert messages(caplog)[100] == "900 log lines were left out: too many in a short time"
    d.feed({"a": ["fail"]}, {"a": ["fail"]})
    assert len(messages(caplog)) == 103
    caplog.clear()
    d.transport.lose()  # the end is always written, and what was left out before it
    await settled()
    assert messages(caplog) == ["1 log lines were left out: too many in a short time"]


async def test_handshakes_that_come_again_and_again_cannot_flood_it_either(caplog: pytest.LogCaptureFixture) -> None:
    server = Server()
    for number in range(3000):
        with pytest.raises(HandshakeRejected):
            await server.handshake(Handshake("/", {"host": "here", "origin": f"https://{number}{'x' * 5000}.example"}))
    assert 1000 <= len(messages(caplog)) < 2000 and all(len(text) < LONGEST for text in messages(caplog))
    assert server.stats().refused == {403: 3000}


# ---------------------------------------------------------------- how long it takes


def test_only_as_much_of_a_value_is_looked_at_as_is_shown() -> None:
    looks: list[object] = []

    class Counted(list[Any]):
        def __iter__(self) -> Iterator[Any]:
            looks.append(self)
            return super().__iter__()

    class Key(str):
        def __lt__(self, other: str) -> bool:
            return pytest.fail("the keys of a large object were sorted")

        __hash__ = str.__hash__

    wide = Counted([Counted([Counted([1] * 30)] * 30)] * 30)
    assert len(short({"key": [wide] * 30})) <= 200
    assert len(looks) < 300, "not 30 x 30 x 30"
    assert short({Key(f"k{n}"): n for n in range(1000)}).startswith("{'k0': 0, 'k1': 1, ")
