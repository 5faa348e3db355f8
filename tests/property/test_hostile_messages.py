"""Whatever arrives, a peer with requests in the air and handlers running keeps its promises.

Hypothesis writes the other side: arbitrary JSON, text and bytes, and messages that look right, with ids that collide
with those of pending requests and of running handlers. A small model says what may follow.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

import hypothesis.strategies as st
from effort import examples
from hypothesis import given, settings
from waiting import settled

from wsrpc import ConnectionLost, Context, Limits, Peer, WsrpcError
from wsrpc._base.scheduler import LoopScheduler
from wsrpc._core.api.peer import current_of
from wsrpc._core.wire.settings import Settings
from wsrpc.codecs import JsonCodec, MsgpackCodec
from wsrpc.testing import ScriptedTransport, VirtualTimeLoop

MAX_ID = 2**53 - 1
EVENTS = ["now", "later", "held", "fails", "fails later", "typed", "ordered"]

# ---------------------------------------------------------------- what arrives

ids: st.SearchStrategy[Any] = st.sampled_from(
    [1, 2, 3, "own 0", "own 1", "own 2", 0, -1, True, 1.0, 1.5, None, "1", [], MAX_ID, MAX_ID + 1]
)
scalars = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=8)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
names = st.sampled_from([*EVENTS, "nobody", "open", "close", "message", "error", "__proto__", "", "x" * 300])
arguments = st.tuples(names, values).map(list) | st.tuples(names).map(list) | st.lists(values, max_size=3) | values
errors = values | st.fixed_dictionaries({"message": values}, optional={"code": values, "data": values, "name": values})
well_formed = st.one_of(
    st.fixed_dictionaries({"i": st.sampled_from([1, 2, 3]), "a": st.tuples(names).map(list)}),
    st.fixed_dictionaries({"i": st.sampled_from([1, 2, 3]), "a": st.tuples(names).map(list), "c": st.just("room")}),
    st.fixed_dictionaries({"a": st.tuples(names, values).map(list)}),
    st.fixed_dictionaries({"i": ids, "d": values}),
    st.fixed_dictionaries({"i": ids, "e": errors}, optional={"_": st.sampled_from([1, True, 0, None])}),
    st.fixed_dictionaries({"i": ids, "x": errors}, optional={"_": st.sampled_from([1, True, 0, None])}),
    st.fixed_dictionaries({"i": ids, "h": st.sampled_from([1, True])}),
    st.fixed_dictionaries({"i": ids}),
    st.fixed_dictionaries({"h": ids, "a": arguments}, optional={"i": ids}),
    st.fixed_dictionaries({"h": ids, "x": errors}),
)
anything_goes = st.fixed_dictionaries(
    {},
    optional={
        "a": arguments,
        "i": ids | values,
        "c": st.sampled_from(["room", "nowhere", "", None, 5, []]) | values,
        "h": ids | values,
        "d": values,
        "e": errors,
        "x": errors,
        "_": st.sampled_from([1, True, 0, None, "x"]),
        "ws-wrapper": st.sampled_from([False, True, 0, None]),
        "wsrpc": values,
    },
)
signals = st.sampled_from(["turn", "pause", "resume", "release"])
steps = st.lists(
    st.one_of(
        well_formed,
        well_formed,
        anything_goes,
        values,
        st.text(max_size=30),
        st.text(alphabet='{}[]",:ai0123\\ud8', max_size=30).map(lambda text: '{"' + text),
        st.binary(max_size=20),
        signals,
    ),
    max_size=25,
)


def is_id(value: object) -> bool:
    return type(value) is int and 1 <= value <= MAX_ID


# ---------------------------------------------------------------- the peer under attack, and the model


class Attacked:
    """A peer, its three requests, its handlers, and what the model expects of them."""

    def __init__(self, *, dialer: bool, limits: Limits) -> None:
        self.transport = ScriptedTransport()
        self.peer = peer = Peer(Settings(JsonCodec(), limits), dialer=dialer, loop=LoopScheduler())
        self.gate = asyncio.Event()
        self.ran: Counter[str] = Counter()
        self.expected: Counter[str] = Counter()
        self.outstanding: Counter[int] = Counter()
        self.complaints: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: self.complaints.append(context))

        async def serve(ctx: Context, *args: Any) -> Any:
            self.ran[ctx.event] += 1
            if ctx.event in ("held", "ordered"):
                await self.gate.wait()
            elif ctx.event == "fails later":
                raise WsrpcError(args)
            await asyncio.sleep(0)
            return list(args)

        def serve_at_once(ctx: Context, *args: Any) -> Any:
            self.ran[ctx.event] += 1
            if ctx.event == "fails":
                raise ValueError(args)
            return list(args)

        def typed(ctx: Context, n: int, *rest: str) -> int:
            self.ran[ctx.event] += 1
            assert type(n) is int and all(type(text) is str for text in rest)
            return n

        for where in (peer, peer.of("room")):
            for event in EVENTS:
                plain: Callable[..., Any] = serve_at_once if event in ("now", "fails") else serve
                where.on(event, typed if event == "typed" else plain, ordered=event == "ordered")
        peer.bind(self.transport)

    async def ask(self) -> None:
        self.own = [asyncio.ensure_future(self.peer.request("q", n, timeout=None)) for n in range(3)]
        await settled()
        self.own_ids = [message["i"] for message in self.transport.pop_sent()]
        self.settled = [False] * 3

    def place_ids(self, message: Any) -> Any:
        """Put the real ids of our own requests where the script says so."""
        if isinstance(message, dict):
            return {key: self.place_ids(value) if key in ("i", "h") else value for key, value in message.items()}
        if isinstance(message, str) and message.startswith("own "):
            return self.own_ids[int(message[-1])]
        return message

    def note(self, text: str) -> None:
        """What may follow from a text that arrives."""
        try:
            message = json.loads(text)
        except (ValueError, RecursionError):
            return
        if not isinstance(message, dict) or message.get("ws-wrapper", "absent") is False:
            return
        a = message.get("a", "absent")
        i: Any = message.get("i")
        if type(i) is float and i.is_integer():
            i = int(i)
        if isinstance(a, list) and a:
            if is_id(i):
                self.outstanding[i] = 1  # another one of an active id is dropped
            if (is_id(i) or i is None) and type(a[0]) is str and message.get("h") is None:
                self.expected[a[0]] += 1
        elif is_id(i) and "x" not in message and a == "absent" and i in self.own_ids:
            self.settled[self.own_ids.index(i)] = True

    def check_sent(self) -> None:
        """No request is answered that was not asked or has its answer; nothing but answers and notices leaves."""
        for message in self.transport.pop_sent():
            keys = set(message) - {"_"}
            if keys in ({"i", "d"}, {"i", "e"}):
                assert self.outstanding[message["i"]] == 1, f"answered twice: {message}"
                self.outstanding[message["i"]] = 0
            else:
                assert keys == {"h", "x"} and is_id(message["h"]), message
            assert message.get("e", "absent") is not None and message.get("x", "absent") is not None
            assert message.get("_", 1) == 1

    def check(self) -> None:
        if self.transport.closed is None:
            self.check_sent()
        assert not self.ran - self.expected, "a handler ran for what was no message for it"
        assert [task.done() for task in self.own] == self.settled or self.transport.closed is not None
        assert self.complaints == []


async def attack(script: list[Any], *, dialer: bool, limits: Limits, burst: bool) -> None:
    attacked = Attacked(dialer=dialer, limits=limits)
    await attacked.ask()
    transport = attacked.transport
    for step in script:
        if transport.closed is not None:
            break
        attacked.check_sent()  # before the model hears of more
        if step == "turn":
            await settled()
        elif step == "pause":
            transport.pause()
        elif step == "resume":
            transport.resume()
        elif step == "release":
            attacked.gate.set()
            await settled()
            attacked.gate.clear()
        elif isinstance(step, bytes):
            transport.feed(step)
        else:
            placed = attacked.place_ids(step)
            text = placed if isinstance(placed, str) else json.dumps(placed)
            attacked.note(text)
            transport.feed(text)
            if transport.closed is None:
                attacked.check_sent()
        if not burst:
            await settled()
            attacked.check()
    if transport.closed is None:
        transport.resume()
    else:
        assert transport.closed.code == 1007, "malformed messages, or none that UTF-8 or a decoder knows"
    attacked.gate.set()
    await settled()
    attacked.check()
    # The end: nothing of all that is left.
    transport.lose()
    results = await asyncio.gather(*attacked.own, return_exceptions=True)
    if transport.closed is not None and transport.closed.code == 1006:
        for was_settled, result in zip(attacked.settled, results, strict=True):
            assert isinstance(result, ConnectionLost) == (not was_settled)
    await settled()
    assert (attacked.peer.pending, attacked.peer.active) == (0, 0)
    assert current_of(attacked.peer).dispatcher.active == {} and attacked.peer.stats().waiting == 0
    assert attacked.complaints == []


def run(main: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(main)


TIGHT = Limits(running=2, waiting=2, depth=4)


@settings(max_examples=examples(500))
@given(steps, st.booleans(), st.booleans(), st.sampled_from([Limits(), Limits(), TIGHT]))
def test_arbitrary_messages(script: list[Any], dialer: bool, burst: bool, limits: Limits) -> None:
    run(attack(script, dialer=dialer, limits=limits, burst=burst))


@settings(max_examples=examples(150))
@given(
    st.lists(
        st.binary(max_size=60) | st.text(max_size=40).map(lambda text: text.encode("utf-8", "replace")), max_size=8
    )
)
def test_arbitrary_bytes_as_text_and_as_messagepack(payloads: list[bytes]) -> None:
    async def main() -> None:
        for codec in (JsonCodec(), MsgpackCodec()):
            transport = ScriptedTransport()
            peer = Peer(Settings(codec, Limits()), dialer=True, loop=LoopScheduler())
            peer.on("e", lambda *args: None)
            peer.bind(transport)
            assert transport._receiver is not None
            for payload in payloads:
                for text in (False, True):
                    transport._receiver.receive(payload, text)
                    transport._receiver.receive(bytearray(payload), text)
            transport._receiver.read_ended()
            await settled()
            assert transport.closed is None or transport.closed.code == 1007
            assert (peer.pending, peer.active) == (0, 0)

    run(main())
