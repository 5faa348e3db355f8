"""Promise 6: bad input, one kind a test, and what happens. Nothing of it raises into the transport."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from core_driver import Blocked, Driven, closes_with, rejection, turns
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as raw_connect
from websockets.exceptions import ConnectionClosed

from wsrpc import Client, Server
from wsrpc.codecs import MsgpackCodec


def echoing(**options: Any) -> tuple[Driven, list[Any]]:
    """A peer with an `echo` handler, and what that got."""
    d = Driven(**options)
    ran: list[Any] = []

    def echo(*args: Any) -> Any:
        ran.append(args)
        return list(args)

    d.peer.on("echo", echo)
    return d, ran


async def works(d: Driven) -> None:
    """The connection goes on and answers."""
    assert [m for m in await d.fed({"i": 4242, "a": ["echo", "ok"]}) if m.get("i") == 4242] == [
        {"i": 4242, "d": ["ok"]}
    ]
    d.assert_empty()


@pytest.mark.parametrize(
    "bomb",
    [
        '{"a":["echo",' + "[" * 100_000,
        '{"a":["echo",' + "[" * 100_000 + "]" * 100_000 + "]}",
        '{"a":["echo",' + '{"a":' * 100_000,
        '{"unknown":' + "[" * 100_000,
        "{" + '"a":{' * 100_000,
        '{"i":1,"d":' + "[{}," * 100_000,
    ],
    ids=["open arrays", "closed arrays", "objects", "unknown key", "keys", "answer"],
)
async def test_a_depth_bomb_closes_with_1007(bomb: str) -> None:
    d, ran = echoing()
    d.feed(bomb)
    await closes_with(d, 1007)
    assert ran == []
    d.expect()


async def test_a_depth_bomb_that_is_foreign_text_is_ignored() -> None:
    d, _ = echoing()
    d.feed("[" * 100_000, "[" * 100_000 + "]" * 100_000)
    assert d.ignored == {"foreign": 2}
    await works(d)


async def test_a_messagepack_depth_bomb_closes_with_1007() -> None:
    d = Driven(codec=MsgpackCodec())
    ran: list[Any] = []
    d.peer.on("e", ran.append)
    d.raw(b"\x81\xa1a\x92\xa1e" + b"\x91" * 100_000 + b"\xc0", text=False)
    await closes_with(d, 1007)
    assert ran == []


async def test_a_messagepack_length_that_lies_is_malformed() -> None:
    d = Driven(codec=MsgpackCodec())
    for payload in (b"\x81\xa1a\xdd\xff\xff\xff\xff\xa1e", b"\xdf\xff\xff\xff\xff", b"\x81\xa1a\xdb\x7f\xff\xff\xff"):
        d.raw(payload, text=False)
    await turns()
    assert d.ignored == {"malformed": 3} and d.peer.connected


async def test_an_integer_of_10_megabytes_is_refused_quickly() -> None:
    digits = "9" * 10_000_000
    d, ran = echoing()
    sent = await d.fed(f'{{"i":1,"a":["echo",{digits}]}}', f'{{"i":2,"a":["echo",-{digits}]}}')
    assert rejection(sent, 1)["code"] == "wsrpc.bad_arguments"
    assert rejection(sent, 2)["code"] == "wsrpc.bad_arguments"
    assert await d.fed(f'{{"a":["echo",{digits}]}}', f'{{"i":{digits},"a":["echo"]}}') == []
    assert ran == []
    await works(d)


@pytest.mark.parametrize("digits", [20, 100, 4300, 4301, 5000])
async def test_a_long_integer_in_any_key_is_answered_or_ignored(digits: int) -> None:
    d, _ = echoing(dialer=True)
    number = "1" + "0" * (digits - 1)
    task, i = await d.asks("q", timeout=None)
    await d.fed(
        f'{{"i":1,"a":["echo",{number}]}}',
        f'{{"i":2,"a":["echo"],"c":{number}}}',
        f'{{"i":3,"a":["echo"],"h":{number}}}',
        f'{{"i":{number},"a":["echo"]}}',
        f'{{"i":4,"a":[{number}]}}',
        f'{{"i":{number},"x":{number}}}',
        f'{{"a":["echo"],"h":{number}}}',
        f'{{"i":{i},"d":{number}}}',
    )
    await asyncio.wait([task])
    await works(d)


async def test_a_long_exponent_and_a_long_fraction_are_numbers_or_rejected() -> None:
    d, _ = echoing()
    for number in ("1e999999999", "-1e999999999", "1e-999999999", "0." + "1" * 100_000, "1" + "0" * 400 + ".5"):
        sent = await d.fed(f'{{"i":1,"a":["echo",{number}]}}')
        assert [m["i"] for m in sent] == [1], number
        d.clock.advance(61)
    await works(d)


async def test_lone_surrogates_in_an_argument_are_rejected() -> None:
    d, ran = echoing()
    for text in (r"\ud800", r"\udc00", r"\udc00\ud800", r"\ud800x", r"x\uDBFF"):
        sent = await d.fed(f'{{"i":1,"a":["echo","{text}"]}}')
        assert rejection(sent, 1)["code"] == "wsrpc.bad_arguments"
    assert ran == []
    assert await d.fed(r'{"i":1,"a":["echo","\ud83d\ude00"]}') == [{"i": 1, "d": ["😀"]}]
    await works(d)


async def test_lone_surrogates_in_a_result_become_a_rejection() -> None:
    d, _ = echoing()
    d.peer.on("bad", lambda: {"k": "\ud800"})
    assert rejection(await d.fed({"i": 1, "a": ["bad"]}), 1)["code"] == "wsrpc.internal"
    await works(d)


async def test_of_duplicate_keys_the_last_one_counts() -> None:
    d, ran = echoing()
    assert await d.fed('{"i":1,"i":2,"a":["nobody"],"a":["echo",1]}') == [{"i": 2, "d": [1]}]
    assert await d.fed('{"a":["echo",2],"a":[],"i":3,"i":null}') == []
    assert await d.fed('{"ws-wrapper":true,"a":["echo",3],"ws-wrapper":false}') == []
    assert ran == [(1,)]
    await works(d)


@pytest.mark.parametrize(
    "literal", ["NaN", "Infinity", "-Infinity", "nan", "undefined", "0x10", "01", "+1", "1.", ".5"]
)
async def test_literals_that_json_does_not_have_run_nothing(literal: str) -> None:
    d, ran = echoing()
    sent = await d.fed(f'{{"i":1,"a":["echo",{literal}]}}')
    python_writes_it = literal.lstrip("-") in ("NaN", "Infinity")
    assert [(m["i"], "e" in m) for m in sent] == ([(1, True)] if python_writes_it else [])
    assert ran == [] and d.ignored == {"unreadable" if python_writes_it else "malformed": 1}
    await works(d)


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "-Infinity"])
async def test_an_answer_of_nan_ends_the_request(literal: str) -> None:
    d, _ = echoing(dialer=True)
    task, i = await d.asks("q", timeout=None)
    d.feed(f'{{"i":{i},"d":{literal}}}')
    await asyncio.wait([task])
    await works(d)


@pytest.mark.parametrize(
    "fields", ['"a":{"k":NaN}', '"a":5,"d":NaN', r'"a":null,"z":"\ud800"', '"a":["q",NaN]', '"x":NaN']
)
async def test_only_answers_are_rescued_as_answers(fields: str) -> None:
    """What does not decode and is no answer must not settle a request of ours that has the same id."""
    d, _ = echoing(dialer=True)
    task, i = await d.asks("q", timeout=None)
    await d.fed(f'{{"i":{i},{fields}}}')
    assert not task.done()
    d.feed({"i": i, "d": "the answer"})
    assert await task == "the answer"
    await works(d)


WRONG: dict[str, list[Any]] = {
    "a": [5, "echo", {"0": "echo"}, None, True, [], [5], [None], [["echo"]], [{}], [True]],
    "c": [5, [], {}, True, 1.5, ["room"]],
    "i": [0, -1, 1.5, "1", [], {}, True, 2**53, 2**70],
    "h": ["x", [], {}, 1.5, -1, True],
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in WRONG.items() for value in values])
@pytest.mark.parametrize("with_id", [False, True])
async def test_a_wrong_type_in_a_key_runs_nothing_and_an_id_is_answered_at_most_once(
    key: str, value: Any, with_id: bool
) -> None:
    d, ran = echoing()
    message = {"a": ["echo", 1], key: value}
    if with_id and key != "i":
        message["i"] = 1
    sent = await d.fed(message)
    assert ran == []
    answers = [m for m in sent if "i" in m]
    assert len(answers) <= 1 and all(m["i"] == 1 and "e" in m for m in answers)
    if with_id and key in ("c", "h"):
        assert len(answers) == 1  # somebody waits for it
    await works(d)


@pytest.mark.parametrize("flag", [None, 0, 1, True, "x", [], {}])
@pytest.mark.parametrize("e", [None, 0, "text", [], {}, {"message": 5}, {"message": None, "code": [1]}, [1], True])
async def test_a_rejection_of_any_shape_rejects(e: Any, flag: Any) -> None:
    d, _ = echoing(dialer=True)
    task, i = await d.asks("q", timeout=None)
    d.feed({"i": i, "e": e, "_": flag})
    await asyncio.wait([task])
    error = task.exception()
    assert error is not None and type(error).__name__ == "RemoteError"
    str(error), repr(error)
    await works(d)


@pytest.mark.parametrize(
    "name", ["__proto__", "constructor", "__class__", "__init__", "toString", "", " ", "\x00", "…"]
)
async def test_names_that_mean_something_elsewhere_are_only_names(name: str) -> None:
    d, _ = echoing()
    sent = await d.fed({"i": 1, "a": [name]}, {"i": 2, "a": ["echo"], "c": name}, {"i": 3, "a": [name], "c": name})
    assert [rejection(sent, i)["code"] for i in (1, 2, 3)] == ["wsrpc.unknown_event"] * 3
    if name:
        d.peer.on(name, lambda: "main")
        d.peer.of(name).on(name, lambda: "named")
        sent = await d.fed({"i": 1, "a": [name]}, {"i": 3, "a": [name], "c": name})
        assert [m["d"] for m in sent] == ["main", "named"]
    await works(d)


async def test_keys_that_mean_something_elsewhere_are_only_keys() -> None:
    d, ran = echoing()
    value = {"__proto__": {"admin": True}, "__class__": "x", "constructor": {"prototype": 1}, "": 0}
    message = {"i": 1, "a": ["echo", value], "__proto__": {"a": ["nobody"]}, "__class__": 1, "": [], "A": ["x"]}
    assert await d.fed(message) == [{"i": 1, "d": [value]}]
    assert ran == [(value,)]
    await works(d)


@pytest.mark.parametrize(("i", "fine"), [(1, True), (2**53 - 1, True), (2**53, False), (2**63, False), (0, False)])
async def test_ids_at_and_past_the_bounds(i: int, fine: bool) -> None:
    d, ran = echoing()
    sent = await d.fed({"i": i, "a": ["echo"]})
    assert sent == ([{"i": i, "d": []}] if fine else [])
    assert bool(ran) == fine
    await works(d)


async def test_binary_to_a_json_peer_is_ignored_even_if_it_is_json() -> None:
    d, ran = echoing()
    d.feed(b'{"i":1,"a":["echo"]}', b"", b"\x00\xff" * 100, b"{")
    assert d.ignored == {"foreign": 4} and ran == []
    await works(d)


async def test_text_to_a_messagepack_peer_is_ignored_even_if_it_is_json() -> None:
    d = Driven(codec=MsgpackCodec())
    d.peer.on("echo", lambda *args: list(args))
    d.feed({"i": 1, "a": ["echo"]}, "", "{")
    assert d.ignored == {"foreign": 3}
    d.raw(msgspec.msgpack.encode({"i": 1, "a": ["echo", b"bytes stay bytes"]}), text=False)
    [(payload, text)] = d.transport._sent
    assert not text
    assert msgspec.msgpack.decode(payload) == {"i": 1, "d": [b"bytes stay bytes"]}


@pytest.mark.parametrize(
    "payload",
    [
        b'{"i":1,"a":["echo","\xff"]}',
        b'{"i":1,"a":["echo"],"unknown":"\xff"}',
        b'{"i":1,"a":["echo"],"\xff":1}',
        b'{"ws-wrapper":false,"wsrpc":{"t":"credit","h":1,"n":1,"z":"\xff"}}',
        b'{"i":1,"a":["echo","' + b"x" * 10_000 + b'"],"unknown":"\xff"}',
        b'{"i":1,"a":["echo","\xc0\x80"]}',
        b'{"i":1,"a":["echo","\xed\xa0\x80"]}',
        b'{"i":1,"a":["echo","\xf4\x90\x80\x80"]}',
        b'{"i":1,"a":["echo","\xe2\x82"]}',
        b"{\xff",
    ],
)
async def test_text_that_is_not_utf8_closes_with_1007(payload: bytes) -> None:
    d, ran = echoing()
    d.raw(payload)
    await closes_with(d, 1007)
    assert ran == []


async def test_utf16_and_a_byte_order_mark_are_not_taken_for_json() -> None:
    d, ran = echoing()
    text = '{"i":1,"a":["echo"]}'
    d.raw(b"\xef\xbb\xbf" + text.encode())
    assert ran == []
    d, ran = echoing()
    d.raw(text.encode("utf-16-le"))
    await turns()
    assert ran == []
    d.expect()


async def test_broken_json_runs_nothing() -> None:
    for broken in (
        '{"a":["echo"]',
        '{"a":["echo"]}}',
        '{"a":["echo"],}',
        "{'a':['echo']}",
        '{"a" ["echo"]}',
        "{",
        "{}x",
    ):
        d, ran = echoing()
        assert await d.fed(broken) == []
        assert ran == [] and d.ignored == {"malformed": 1}, broken
        await works(d)


async def test_null_bytes_and_controls_in_text_are_refused_or_harmless() -> None:
    d, _ = echoing()
    await d.fed('{"i":1,"a":["echo","\x00"]}', '{"i":1,"a":["echo","\x1f"]}', '{"i":1,"a":["echo"]}\x00', "\x00{")
    assert await d.fed({"i": 3, "a": ["echo", "\x00\u2028"]}) == [{"i": 3, "d": ["\x00\u2028"]}]
    await works(d)


async def test_a_flood_of_cancellations_is_counted_and_forgotten() -> None:
    d, _ = echoing()
    blocked = Blocked()
    d.peer.on("slow", blocked)
    await d.fed({"i": 1, "a": ["slow"]})
    d.feed(*({"i": n, "x": n} for n in range(1, 5000)))
    await turns()
    assert [m["i"] for m in d.take()] == [1]
    assert d.ignored == {"cancellation of no request": 4998}
    await works(d)


async def test_a_flood_of_requests_and_cancellations_leaves_nothing() -> None:
    d, _ = echoing()
    blocked = Blocked()
    d.peer.on("slow", blocked)
    for start in range(1, 3001, 300):
        ids = range(start, start + 300)
        d.feed(*(m for i in ids for m in ({"i": i, "a": ["slow"]}, {"i": i, "x": 0})))
        await turns()
        assert sorted(m["i"] for m in d.take()) == list(ids)
    assert blocked.finished == []
    await works(d)


async def test_a_name_that_echoes_is_bounded() -> None:
    d, _ = echoing()
    big = ["x" * 100_000]
    sent = await d.fed({"i": 1, "a": ["echo"], "c": big}, {"i": 2, "a": ["echo"], "h": big}, {"i": 3, "a": [big]})
    assert len(json.dumps(sent)) < 3000
    await works(d)


HOSTILE: list[str | bytes] = [
    '{"a":["echo",' + "[" * 100_000,
    '{"i":1,"a":["echo",' + "9" * 1_000_000 + "]}",
    r'{"i":1,"a":["echo","\ud800"]}',
    '{"i":1,"i":1,"a":["echo"],"a":5}',
    '{"i":1,"a":["echo",NaN]}',
    b"\xff\xfe\x00",
    "[" * 100_000,
    *['{"nothing":1}'] * 12,
]


@pytest.mark.parametrize("key", ["c", "h"])
async def test_a_rejection_tells_no_address_in_memory(key: str) -> None:
    d, ran = echoing(codec=MsgpackCodec())
    extension = msgspec.msgpack.Ext(5, b"x")
    sent = await d.fed(*(msgspec.msgpack.encode({"i": 1, "a": ["echo"], key: one}) for one in (extension, [extension])))
    errors = [msgspec.msgpack.decode(one)["e"]["message"] for one in sent]
    assert len(errors) == 2 and all("Ext(5, b'x')" in error for error in errors)
    assert " at 0x" not in str(errors) and ran == []


async def answers_of(raw: ClientConnection) -> AsyncIterator[str | bytes]:
    """What comes, up to the answer to request 77 or the end."""
    with suppress(ConnectionClosed):
        while True:
            answer = await raw.recv()
            yield answer
            if json.loads(answer).get("i") == 77:
                return


async def test_the_bad_input_of_one_peer_never_disturbs_another() -> None:
    """Over real sockets: each piece of it on a connection of its own, while another client goes on working."""
    server = Server()
    server.on("echo", lambda x: x)

    @server.on("held")
    async def held(peer: Any) -> None:
        await asyncio.Event().wait()

    async with server.listen() as listener, Client(listener.url) as good:
        pending = asyncio.ensure_future(good.request("held", 1))
        for n, bad in enumerate(HOSTILE):
            async with raw_connect(listener.url, max_size=None, compression=None) as raw:
                await raw.send(bad)
                await raw.send(json.dumps({"i": 77, "a": ["echo", n]}))
                answers = [json.loads(answer) async for answer in answers_of(raw)]
                # Either it was closed because of what it sent, or its next request was answered.
                assert answers[-1:] == [{"i": 77, "d": n}] or raw.close_code == 1007
            assert await good.request("echo", n) == n
        async with raw_connect(listener.url, max_size=None, compression=None) as raw:
            for _ in range(11):
                await raw.send("{")
            with pytest.raises(ConnectionClosed) as caught:
                await raw.recv()
            assert caught.value.rcvd is not None and caught.value.rcvd.code == 1007
        assert await good.request("echo", "still here") == "still here"
        assert not pending.done()
        pending.cancel()
        await asyncio.wait([pending])
