"""Promises 2 and 3: a request is sent once and ends exactly once, wherever its message is at that moment."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from core_driver import ABORTED, Blocked, Driven, rejection, start, turns

from wsrpc import BadResult, Client, ConnectionLost, Limits, RemoteError, RequestTimeout, RpcError, TooManyRequests
from wsrpc.codecs import JsonCodec
from wsrpc.errors import ReservedEvent, UnexpectedChannel
from wsrpc.testing import memory_transports, pair


class Places:
    """A request of a client-like peer, brought to each place where its message can be."""

    NOT_CONNECTED = "before the first connection"
    OPENING = "while an open handler runs"
    LINE = "waiting for its turn on a full line"
    SENT = "sent"


UNSENT = [Places.NOT_CONNECTED, Places.OPENING, Places.LINE]
EVERYWHERE = [*UNSENT, Places.SENT]


async def request_at(place: str, **options: Any) -> tuple[Driven, asyncio.Task[Any], asyncio.Event]:
    """The peer, its request, and what lets the message go on."""
    gate = asyncio.Event()
    d = Driven(dialer=True, keeps_offline=True, bind=False)
    if place == Places.OPENING:

        async def open_handler() -> None:
            await gate.wait()

        d.peer.on("open", open_handler)
    if place != Places.NOT_CONNECTED:
        d.peer.bind(d.transport)
        await turns()
    if place == Places.LINE:
        d.transport.pause()
    task = start(d.peer.request("q", 1, **options))
    await turns()
    assert d.peer.pending == 1
    assert len(d.transport._sent) == (place == Places.SENT)
    return d, task, gate


async def let_go(d: Driven, place: str, gate: asyncio.Event) -> None:
    """Let the message leave, as it would have without what ended its request."""
    if place == Places.NOT_CONNECTED:
        d.peer.bind(d.transport)
    elif place == Places.OPENING:
        gate.set()
    elif place == Places.LINE:
        d.transport.resume()
    await turns()


@pytest.mark.parametrize("place", EVERYWHERE)
async def test_a_value_comes_back(place: str) -> None:
    d, task, gate = await request_at(place, timeout=None)
    await let_go(d, place, gate)
    [sent] = d.take()
    assert sent["a"] == ["q", 1]
    d.feed({"i": sent["i"], "d": {"x": 1}})
    assert await task == {"x": 1}
    d.expect()
    d.assert_empty()


@pytest.mark.parametrize("place", EVERYWHERE)
async def test_a_rejection_comes_back(place: str) -> None:
    d, task, gate = await request_at(place)
    await let_go(d, place, gate)
    [sent] = d.take()
    d.feed({"i": sent["i"], "e": {"message": "no", "code": 7, "extra": True}, "_": 1})
    with pytest.raises(RemoteError, match="no") as caught:
        await task
    assert caught.value.code == 7
    assert caught.value.fields == {"extra": True}
    d.assert_empty()


@pytest.mark.parametrize("place", EVERYWHERE)
async def test_a_timeout_ends_it_and_only_what_was_sent_is_cancelled(place: str) -> None:
    d, task, gate = await request_at(place, timeout=5)
    sent = d.take()
    d.clock.advance(4.9)
    await turns()
    assert not task.done()
    d.clock.advance(0.1)
    with pytest.raises(RequestTimeout, match="no response to 'q' within 5 s") as caught:
        await task
    assert isinstance(caught.value, TimeoutError)
    assert (caught.value.event, caught.value.timeout) == ("q", 5)
    assert caught.value.outcome == ("unknown" if place == Places.SENT else "not_sent")
    assert str(caught.value).endswith("; nothing was sent") == (place != Places.SENT)
    await let_go(d, place, gate)
    if place == Places.SENT:
        d.expect({"i": sent[0]["i"], "x": ABORTED, "_": 1})
    else:
        d.expect()  # it never leaves
    d.assert_empty()


@pytest.mark.parametrize("place", EVERYWHERE)
async def test_cancelling_ends_it_and_only_what_was_sent_is_cancelled_remotely(place: str) -> None:
    d, task, gate = await request_at(place)
    sent = d.take()
    task.cancel("bored")
    with pytest.raises(asyncio.CancelledError):
        await task
    await let_go(d, place, gate)
    if place == Places.SENT:
        d.expect({"i": sent[0]["i"], "x": "bored"})
    else:
        d.expect()
    d.assert_empty()


@pytest.mark.parametrize("place", [Places.OPENING, Places.LINE, Places.SENT])
async def test_a_drop_ends_it_and_says_whether_it_may_have_run(place: str) -> None:
    d, task, _ = await request_at(place)
    d.transport.lose()
    await turns()
    if place != Places.SENT:  # it waits for another connection
        assert not task.done()
        await d.peer.close(1000, "bye")
    with pytest.raises(ConnectionLost) as caught:
        await task
    assert caught.value.outcome == ("unknown" if place == Places.SENT else "not_sent")
    assert caught.value.code == (1006 if place == Places.SENT else 1000)
    assert isinstance(caught.value, ConnectionError)
    d.assert_empty()


@pytest.mark.parametrize("place", EVERYWHERE)
async def test_closing_ends_it(place: str) -> None:
    d, task, _ = await request_at(place)
    await d.peer.close(1000, "bye")
    with pytest.raises(ConnectionLost) as caught:
        await task
    # What was accepted is written before the Close frame, so that it may have been sent by now.
    assert caught.value.outcome == ("unknown" if d.take() else "not_sent")
    assert (place == Places.SENT) <= (caught.value.outcome == "unknown")
    assert (caught.value.code, caught.value.reason) == (1000, "bye")
    d.assert_empty()


@pytest.mark.parametrize("place", [Places.OPENING, Places.LINE, Places.SENT])
async def test_another_bind_ends_what_was_sent_and_never_sends_it_again(place: str) -> None:
    d, task, gate = await request_at(place, timeout=None)
    old = d.transport
    old.take()
    gate.set()
    new = d.rebind()
    await turns()
    sent = new.take()
    if place == Places.SENT:
        assert sent == []  # at most once
        with pytest.raises(ConnectionLost) as caught:
            await task
        assert (caught.value.code, caught.value.outcome) == (1001, "unknown")
    elif task.done():
        with pytest.raises(ConnectionLost) as caught:
            await task
        assert caught.value.outcome == "not_sent" and sent == []
    else:  # it had not left, so it may go over the new connection, once
        d.feed({"i": sent[0]["i"], "d": 1})
        assert await task == 1
    assert old.closed is not None and old.closed.code == 1001
    d.assert_empty()


@pytest.mark.parametrize("place", UNSENT)
async def test_an_answer_to_what_was_not_sent_is_of_no_use_to_a_hostile_peer(place: str) -> None:
    """Whatever is done with it, the request ends once and the connection goes on."""
    d, task, gate = await request_at(place, timeout=5)
    await let_go(d, place, gate)
    [sent] = d.take()
    d.feed({"i": sent["i"], "d": 1}, {"i": sent["i"], "d": 2}, {"i": sent["i"], "e": "no"})
    assert await task == 1
    assert d.ignored["response to no request"] == 2
    d.assert_empty()


async def test_cancelled_in_the_turn_of_the_answer_ends_with_cancellation_and_sends_nothing() -> None:
    d = Driven(dialer=True)
    task, i = await d.asks("q")
    d.feed({"i": i, "d": 1})
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    d.expect()
    d.assert_empty()


async def test_answered_after_the_cancellation_is_ignored() -> None:
    d = Driven(dialer=True)
    task, i = await d.asks("q")
    task.cancel()
    await turns()
    d.expect({"i": i, "x": ABORTED, "_": 1})
    assert await d.fed({"i": i, "d": 1}, {"i": i, "e": "no"}) == []
    assert task.cancelled()
    assert d.ignored["response to no request"] == 2


async def test_a_timeout_in_the_turn_of_the_answer_changes_nothing() -> None:
    d = Driven(dialer=True)
    task, i = await d.asks("q", timeout=1)
    d.feed({"i": i, "d": "in time"})
    d.clock.advance(2)
    assert await task == "in time"
    d.expect()


async def test_dropped_in_the_turn_of_the_answer_keeps_the_answer() -> None:
    d = Driven(dialer=True)
    task, i = await d.asks("q")
    d.feed({"i": i, "d": "in time"})
    d.transport.lose()
    assert await task == "in time"


async def test_dropped_in_the_turn_of_the_cancellation_ends_with_cancellation() -> None:
    d = Driven(dialer=True)
    task, _ = await d.asks("q")
    d.transport.lose()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    d.assert_empty()


async def test_cancelled_before_its_first_step_sends_nothing() -> None:
    d = Driven(dialer=True)
    task = start(d.peer.request("q"))
    task.cancel()
    await turns()
    assert task.cancelled()
    d.expect()
    d.assert_empty()


async def test_the_timeout_of_asyncio_cancels_remotely() -> None:
    async with pair() as (a, b):
        blocked = Blocked()
        b.on("slow", blocked)

        async def ask() -> None:
            async with asyncio.timeout(None) as scope:
                asked.set_result(scope)
                await a.request("slow")

        asked: asyncio.Future[asyncio.Timeout] = asyncio.get_running_loop().create_future()
        task = start(ask())
        scope = await asked
        await turns()
        assert len(blocked.started) == 1
        scope.reschedule(asyncio.get_running_loop().time())
        with pytest.raises(TimeoutError):
            await task
        await turns()
        assert len(blocked.cancelled) == 1
        assert (a.pending, b.active) == (0, 0)


@pytest.mark.parametrize(
    ("reason", "on_wire"),
    [
        (None, {"x": ABORTED, "_": 1}),
        ("bored", {"x": "bored"}),
        (0, {"x": 0}),
        ("", {"x": ""}),
        (False, {"x": False}),
        ({"why": [1]}, {"x": {"why": [1]}}),
        (ValueError("broken"), {"x": {"message": "broken"}, "_": 1}),
        (RpcError("no", "E", 3), {"x": {"message": "no", "code": "E", "data": 3}, "_": 1}),
        (object(), {"x": ABORTED, "_": 1}),
        ("\ud800", {"x": ABORTED, "_": 1}),
    ],
)
async def test_the_cancel_reason_travels(reason: object, on_wire: dict[str, Any]) -> None:
    d = Driven(dialer=True)
    task, i = await d.asks("q")
    task.cancel(reason)
    with pytest.raises(asyncio.CancelledError):
        await task
    d.expect({"i": i, **on_wire})


@pytest.mark.parametrize("error", [NotImplementedError, KeyError, TypeError])
async def test_a_cancel_reason_that_an_enc_hook_refuses_still_cancels(error: type[Exception]) -> None:
    def refuse(value: object) -> Any:
        raise error(value)

    d = Driven(dialer=True, codec=JsonCodec(enc_hook=refuse))
    task, i = await d.asks("q")
    task.cancel(object())
    with pytest.raises(asyncio.CancelledError):
        await task
    d.expect({"i": i, "x": ABORTED, "_": 1})


async def test_the_default_timeout_is_that_of_the_limits() -> None:
    d = Driven(dialer=True)
    task, _ = await d.asks("q")
    d.clock.advance(59.9)
    await turns()
    assert not task.done()
    d.clock.advance(0.2)
    with pytest.raises(RequestTimeout, match="within 60 s"):
        await task


async def test_no_timeout_waits_for_ever() -> None:
    d = Driven(dialer=True, limits=Limits(timeout=None))
    task, i = await d.asks("q")
    other, j = await d.asks("q", timeout=1)
    assert d.clock.next_deadline == 1
    d.clock.advance(1e9)
    with pytest.raises(RequestTimeout):
        await other
    assert not task.done()
    d.feed({"i": i})
    assert await task is None
    assert i != j


async def test_timeouts_fall_due_in_their_own_order() -> None:
    d = Driven(dialer=True)
    slow, _ = await d.asks("slow", timeout=30)
    quick, _ = await d.asks("quick", timeout=1)
    middle, _ = await d.asks("middle", timeout=10)
    ended: list[str] = []
    for task in (slow, quick, middle):
        task.add_done_callback(lambda task: ended.append(str(task.exception())))
    for seconds in (1, 9, 20):
        d.clock.advance(seconds)
        await turns()
    assert ended == [
        "no response to 'quick' within 1 s",
        "no response to 'middle' within 10 s",
        "no response to 'slow' within 30 s",
    ]
    assert d.clock.next_deadline is None


async def test_the_next_request_over_the_bound_is_refused_here() -> None:
    d = Driven(dialer=True, limits=Limits(pending=3))
    asked = [await d.asks("q") for _ in range(3)]
    with pytest.raises(TooManyRequests, match=r"3 requests are pending already \(Limits.pending=3\)"):
        await d.peer.request("q")
    d.expect()
    d.feed({"i": asked[0][1]})
    await asked[0][0]
    task, i = await d.asks("q")
    d.feed(*({"i": i} for _, i in [*asked[1:], (task, i)]))
    await turns()
    d.assert_empty()


async def test_what_cannot_be_encoded_is_refused_here_and_leaves_nothing() -> None:
    d = Driven(dialer=True)
    loop: list[Any] = []
    loop.append(loop)
    refused: list[tuple[Any, type[Exception]]] = [
        (object(), TypeError),
        ({1j: 1}, TypeError),
        ("\ud800", UnicodeEncodeError),
        (loop, RecursionError),
    ]
    for value, error in refused:
        with pytest.raises(error):
            await d.peer.request("q", value)
        with pytest.raises(error):
            await d.peer.emit("q", value)
        with pytest.raises(error):
            d.peer.emit_nowait("q", value)
    d.expect()
    d.assert_empty()


async def test_what_cannot_be_encoded_passes_its_turn_on() -> None:
    d = Driven(dialer=True)
    d.transport.pause()
    broken = start(d.peer.request("q", object()))
    fine = start(d.peer.emit("fine"))
    await turns()
    d.transport.resume()
    await fine
    with pytest.raises(TypeError):
        await broken
    d.expect({"a": ["fine"]})
    d.assert_empty()


@pytest.mark.parametrize("name", ["open", "connect", "message", "error", "close", "disconnect"])
async def test_reserved_names_are_refused_on_the_main_channel_only(name: str) -> None:
    d = Driven(dialer=True)
    with pytest.raises(ReservedEvent, match=f"'{name}' is reserved on the main channel"):
        await d.peer.emit(name)
    with pytest.raises(ReservedEvent):
        d.peer.emit_nowait(name)
    with pytest.raises(ValueError):
        await d.peer.request(name)
    await d.peer.of("room").emit(name, 1)
    d.expect({"c": "room", "a": [name, 1]})
    d.assert_empty()


@pytest.mark.parametrize("name", [None, 5, b"x"])
async def test_a_name_that_is_no_text_is_refused(name: Any) -> None:
    d = Driven(dialer=True)
    with pytest.raises(TypeError, match="an event's name is a string"):
        await d.peer.request(name)
    with pytest.raises(TypeError, match="an event's name is a string"):
        await d.peer.emit(name)
    d.assert_empty()


async def test_an_empty_name_is_one_as_in_javascript() -> None:
    d = Driven(dialer=True)
    await d.peer.emit("", 1)
    d.peer.emit_nowait("", 2)
    d.expect({"a": ["", 1]}, {"a": ["", 2]})
    task, i = await d.asks("")
    d.feed({"i": i, "d": 5})
    assert await task == 5
    assert "No event listener for ''" in rejection(await d.fed({"i": 3, "a": [""]}), 3)["message"]
    d.peer.on("", lambda *args: list(args))
    assert await d.fed({"i": 4, "a": ["", 1]}, {"a": [""]}) == [{"i": 4, "d": [1]}]
    d.peer.on("", None)
    d.peer.once("", lambda a, /: a)
    refused = rejection(await d.fed({"i": 6, "a": [""]}), 6)["message"]
    assert refused == "handler: missing argument 'a': expected 1 argument, got 0"
    assert await d.fed({"i": 5, "a": ["", 2]}) == [{"i": 5, "d": 2}], "a handler that did not run is not used up"
    assert "No event listener" in rejection(await d.fed({"i": 7, "a": [""]}), 7)["message"]
    with pytest.raises(TypeError, match="a channel's name is a non-empty string"):
        d.peer.of("")
    d.assert_empty()


async def test_an_option_meant_for_the_handler_is_refused_with_advice() -> None:
    d = Driven(dialer=True)
    with pytest.raises(TypeError, match=r"request\('add'\) got b as keyword argument"):
        await d.peer.request("add", 1, b=2)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="arguments travel by position"):
        await d.peer.emit("add", b=2)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        d.peer.emit_nowait("add", b=2)  # type: ignore[arg-type]


async def test_an_answer_that_does_not_fit_is_a_bad_result() -> None:
    d = Driven(dialer=True)
    for answer, returns in (("x", int), (None, int), ([1, "x"], list[int])):
        task, i = await d.asks("q", returns=returns)
        d.feed({"i": i, "d": answer})
        with pytest.raises(BadResult, match="the response to 'q' is not what returns= asks for"):
            await task
    task, i = await d.asks("q", returns=int | None)
    d.feed({"i": i})
    assert await task is None
    task, i = await d.asks("q", returns=tuple[int, str])
    d.feed({"i": i, "d": [1, "x"]})
    assert await task == (1, "x")
    d.assert_empty()


async def test_a_channel_that_nobody_asked_for_is_aborted_and_none_where_none_will_do(
    caplog: pytest.LogCaptureFixture,
) -> None:
    d = Driven(dialer=True)
    for options in ({}, {"returns": int | None}, {}):
        task, i = await d.asks("q", **options)
        [abort] = await d.fed({"i": i, "h": 1})
        assert abort["h"] == i and abort["_"] == 1 and "x" in abort
        assert await task is None
    assert len(caplog.records) == 1  # once a name
    task, i = await d.asks("q", returns=int)
    assert [m["h"] for m in await d.fed({"i": i, "h": 1})] == [i]
    with pytest.raises(UnexpectedChannel):
        await task
    d.assert_empty()


async def test_not_connected_is_said_at_once_where_nothing_queues() -> None:
    d = Driven(bind=False)
    for call in (d.peer.request("q"), d.peer.emit("e"), d.peer.of("room").request("q")):
        with pytest.raises(ConnectionLost) as caught:
            await call
        assert caught.value.outcome == "not_sent"
    with pytest.raises(ConnectionLost):
        d.peer.emit_nowait("e")
    d.assert_empty()


async def test_after_close_nothing_waits_for_another_connection() -> None:
    d = Driven(dialer=True, keeps_offline=True)
    await d.peer.close()
    with pytest.raises(ConnectionLost) as caught:
        await d.peer.request("q")
    assert (caught.value.code, caught.value.outcome) == (1000, "not_sent")


async def test_while_closing_nothing_more_is_sent() -> None:
    async with pair() as (a, b):
        seen: list[int] = []
        b.on("n", seen.append)
        await a.emit("n", 1)
        closing = start(a.close())
        await turns(1)
        with pytest.raises(ConnectionLost) as caught:
            await a.request("n", 2)
        assert caught.value.outcome == "not_sent"
        await closing
        assert seen == [1]  # what was accepted is written before the Close frame


async def test_a_call_from_another_thread_is_refused_with_advice() -> None:
    async with pair() as (a, _):
        with pytest.raises(RuntimeError, match="run_coroutine_threadsafe"):
            await asyncio.to_thread(a.emit_nowait, "x")

        def ask() -> None:
            a.request("x").send(None)

        with pytest.raises(RuntimeError, match="run_coroutine_threadsafe"):
            await asyncio.to_thread(ask)
        assert a.pending == 0


async def test_offline_requests_of_a_client_end_whatever_the_first_connection_is_like() -> None:
    """The connection that is bound has ended already: nothing escapes but a `ConnectionLost`, nothing hangs."""
    ours, theirs = memory_transports()
    theirs.abort()
    await turns()
    client = Client()
    task = start(client.request("q", timeout=None))
    event = start(client.emit("e"))
    await turns()
    with pytest.raises(ConnectionLost):
        await client.bind(ours)  # what waits cannot be sent on it, so it was never open
    await turns()
    assert not client.connected
    assert not task.done()
    ours, theirs = memory_transports()
    await client.bind(ours)
    assert ours.sent == 3  # hello, the request and the event
    await event
    await client.close()
    await turns()
    assert task.done()
    task.exception()
