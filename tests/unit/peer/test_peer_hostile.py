"""Bad input, and what happens. Nothing of it raises into the transport."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from core_driver import Driven, closes_with, messages, rejection
from waiting import settled

from wsrpc.codecs import MsgpackCodec


def echoing(**options: Any) -> tuple[Driven, list[Any]]:
    """A peer with an `echo` handler, and what that got."""
    d, ran = Driven(**options), list[Any]()

    def echo(*args: Any) -> Any:
        ran.append(args)
        return list(args)

    d.peer.on("echo", echo)
    return d, ran


async def works(d: Driven) -> None:
    """The connection goes on and answers."""
    assert {"i": 4242, "d": ["ok"]} in await d.fed({"i": 4242, "a": ["echo", "ok"]})
    d.assert_empty()


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = {"child": value}
    return value


LONG = "9" * 100_000
BRACKETS = ["[" * 500, '{"' * 300, '\\"[[' * 100, "\\" * 99, "\\[" * 200, '"]}' * 50]
"""Text, which is not nesting."""
SURROGATES = [r"\ud800", r"\udc00", r"\udc00\ud800", r"\ud800x", r"x\uDBFF"]
NOT_LISTS: list[Any] = [5, "echo", {"0": "echo"}, None, []]
NOT_NAMES: list[Any] = [5, None, ["echo"], {}]
NOT_IDS: list[Any] = [0, "1", [], True, 2**53, 2**70]

FATES: dict[str, list[Any]] = {
    # What no honest peer sends: it is counted, and more than ten in a minute close the connection.
    "malformed": [
        *('{"a":["echo"]', "{", r'{"i":-1,"a":["\ud800"]}'),
        {"i": 1.5, "a": ["echo", nested(70)]},
        *({"a": ["echo"], "i": i} for i in NOT_IDS),
        *(f'{{"i":1,"a":["echo",{literal}]}}' for literal in ("nan", "01", ".5")),
    ],
    # What honest peers send by mistake, or what is not for wsrpc: it is counted, and logged at most once.
    "nested too deep": [
        *({"a": ["echo", nested(levels)]} for levels in (63, 500)),
        r'{"a":["\ud83d",' + "[" * 63 + "]" * 63 + "]}",
    ],
    "unreadable": [
        *(r'{"a":["echo","hello \ud83d"]}', r'{"a":["\udc00"]}', '{"a":["echo",1e400]}'),
        *(f'{{"a":["echo",{literal}]}}' for literal in ("NaN", "Infinity", "-Infinity", LONG)),
        r'{"a":["\ud83d",' + "[" * 62 + "]" * 62 + "]}",
    ],
    "foreign": [
        *("{}", '{"a":[],"i":7}', '{"d":1}', "[" * 50_000 + "]" * 50_000),
        {"a": nested(70)},
        *({"a": a} for a in NOT_LISTS),
    ],
    "too many arguments": [{"a": ["echo", *range(65)]}],
    "name too long": [{"a": ["n" * 300]}, {"a": ["😀" * 70]}, {"c": "n" * 300, "a": ["echo"]}],
    "name is not text": [
        *({"a": [name]} for name in NOT_NAMES),
        *({"a": ["echo"], "c": name} for name in NOT_NAMES if name is not None),
    ],
    "unknown event": [{"a": ["nobody"]}, {"c": "nowhere", "a": ["echo"]}, {"a": [""]}],
    "reserved event": [{"a": ["open"]}],
    # Requests that cannot be taken: somebody waits for the answer.
    "rejected": [
        *(f'{{"i":7,"a":["echo","{text}"]}}' for text in SURROGATES),
        *(f'{{"i":7,"a":["echo",{value}]}}' for value in ("NaN", "Infinity", "-Infinity", LONG, f"-{LONG}")),
        {"i": 7, "a": ["echo", *range(65)]},
        {"i": 7, "a": ["n" * 300]},
    ],
    # What costs too much, or is no text: the connection ends at once.
    "closes": [
        '{"a":["echo",' + "[" * 100_000 + "]" * 100_000 + "]}",
        *('{"a":["echo",' + "[" * levels for levels in (511, 5000, 100_000)),  # malformed, too: the depth decides
        r'{"a":["\ud83d",' + "[" * 511 + "]" * 511 + "]}",
        b'{"ws-wrapper":false,"wsrpc":{"t":"credit","h":1,"n":1,"z":"\xff"}}',
        b'{"i":1,"a":["echo","' + b"x" * 10_000 + b'"],"unknown":"\xff"}',
        b'{"i":1,"a":["echo","\xed\xa0\x80"]}',
    ],
}


@pytest.mark.parametrize(
    ("fate", "message"),
    [pytest.param(fate, each, id=f"{fate}: {str(each)[:40]}") for fate, given in FATES.items() for each in given],
)
async def test_what_becomes_of_bad_input(fate: str, message: Any, caplog: pytest.LogCaptureFixture) -> None:
    d, ran = echoing()
    told: list[Any] = []
    d.peer.on("error", lambda peer, error: told.append(error))
    if fate == "closes":
        d.raw(message if isinstance(message, bytes) else message.encode())
        await closes_with(d, 1007)
    elif fate == "rejected":
        for _ in range(12):
            assert rejection(await d.fed(message), 7)["code"] in ("wsrpc.bad_arguments", "wsrpc.unknown_event")
    else:
        assert await d.fed(*[message] * 10) == []
        assert d.ignored == {fate: 10} and len(messages(caplog)) <= 1, "counted, and logged once"
        await works(d)
        ran.clear()
        d.feed(message)
        if fate == "malformed":
            await closes_with(d, 1007)
        else:
            await works(d)
            ran.clear()
    assert ran == [] and (told == []) is (fate not in ("malformed", "closes"))


async def test_the_minute_of_malformed_messages_slides_and_belongs_to_the_connection() -> None:
    d = Driven()
    for _ in range(100):  # one each 6.01 s: never more than ten within a minute
        d.feed("{")
        await settled(6.01)
    await settled()
    assert d.close_code is None and d.ignored == {"malformed": 100}
    d.rebind()
    d.feed(*["{"] * 10)
    await settled()
    assert d.peer.connected


# ---------------------------------------------------------------- what looks bad and is not


@pytest.mark.parametrize(
    ("message", "values"),
    [
        ('{"i":2,"i":1,"a":["nobody"],"a":["echo",1]}', [1]),  # the last of duplicate keys counts
        (r'{"i":1,"a":["echo","\ud83d\ude00"]}', ["😀"]),
        ({"i": 1, "a": ["echo", *BRACKETS]}, BRACKETS),
        ({"i": 1, "a": ["echo", [[]] * 1000], "__proto__": {"a": ["nobody"]}, "": [], "A": ["x"]}, [[[]] * 1000]),
    ],
)
async def test_unusual_messages_are_taken(message: Any, values: list[Any]) -> None:
    d, _ = echoing()
    assert await d.fed(message) == [{"i": 1, "d": values}]


# ---------------------------------------------------------------- answers


async def test_what_a_rejection_echoes_is_bounded_and_tells_no_address_in_memory() -> None:
    d, _ = echoing()
    big = ["x" * 100_000]
    sent = await d.fed({"i": 1, "a": ["echo"], "c": big}, {"i": 2, "a": ["echo"], "h": big}, {"i": 3, "a": [big]})
    assert len(json.dumps(sent)) < 3000
    d.peer.on("bad", lambda: {"k": "\ud800"})
    assert rejection(await d.fed({"i": 1, "a": ["bad"]}), 1)["code"] == "wsrpc.internal"
    await works(d)
    d, _ = echoing(codec=MsgpackCodec())
    extension = msgspec.msgpack.Ext(5, b"x")
    given = [{"i": 1, "a": ["echo"], key: one} for key in ("c", "h") for one in (extension, [extension])]
    for sent in await d.fed(*map(msgspec.msgpack.encode, given)):
        text = msgspec.msgpack.decode(sent)["e"]["message"]
        assert "Ext(5, b'x')" in text and " at 0x" not in text


# ---------------------------------------------------------------- the other kind of message


@pytest.mark.parametrize(
    ("payload", "ignored"),
    [
        (b"\x81\xa1a\xdd\xff\xff\xff\xff\xa1e", "malformed"),  # lengths that lie
        *((b"\x81\xa1a\x92\xa4echo" + b"\x91" * levels + b"\xc0", None) for levels in (511, 5000, 100_000)),
        *((b"\x81\xa1a\x92\xa4echo" + b"\x91" * levels, None) for levels in (511, 5000)),  # cut off
        (b"\x81\xa1a\x93\xa1\xff" + b"\x91" * 511 + b"\xc0\xc0", None),  # text that is not UTF-8, and the depth
        (b"\x81\xa1a\x92\xa4echo" + b"\x91" * 510, "malformed"),
        ('{"i":1,"a":["echo"]}', "foreign"),
    ],
)
async def test_bad_input_for_messagepack(payload: Any, ignored: str | None) -> None:
    d, ran = echoing(codec=MsgpackCodec())
    d.feed(payload)
    await settled()
    assert ran == [] and d.ignored == ({} if ignored is None else {ignored: 1})
    assert d.close_code == (1007 if ignored is None else None)
