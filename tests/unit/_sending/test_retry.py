"""``request(retry=, idempotent=)``: what is asked again, when, and within what time."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable
from typing import Any

import pytest
import tenacity
from core_driver import Driven, redialing, start, turns
from leftovers import nothing_left as nothing_left
from tenacity.wait import wait_base

from wsrpc import (
    BadArguments,
    BadResult,
    Client,
    CloseInfo,
    ConnectionLost,
    Limits,
    MessageTooBig,
    Overloaded,
    QueueFull,
    Reconnect,
    RemoteError,
    RequestTimeout,
    Retry,
    Server,
    TooManyRequests,
    UnknownEvent,
)
from wsrpc.errors import Draining
from wsrpc.testing import connect

AT_ONCE = Retry(initial=0.0)
OVERLOADED = {"message": "no place", "code": "wsrpc.overloaded"}
DRAINING = {"message": "closing", "code": "wsrpc.draining"}


async def asked(d: Driven) -> int:
    """The id of the one request that was sent."""
    await turns()
    d.clock.advance(0)  # a wait of no time is one, too
    await turns()
    [message] = d.take()
    number: int = message["i"]
    return number


async def rejects(d: Driven, error: dict[str, Any]) -> None:
    d.feed({"i": await asked(d), "e": error, "_": 1})


@pytest.fixture
def longest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each wait is as long as chance allows."""
    monkeypatch.setattr(random, "uniform", lambda low, high: high)


# ---------------------------------------------------------------- what is asked again


@pytest.mark.parametrize("error", [OVERLOADED, DRAINING])
async def test_what_the_remote_peer_refused_is_sent_again(error: dict[str, Any]) -> None:
    d = Driven(dialer=True)
    for caller, channel in ((d.peer, None), (d.peer.of("room"), "room")):
        task = start(caller.request("add", 1, 2, returns=int, retry=AT_ONCE))
        await rejects(d, error)
        await rejects(d, error)
        await turns()
        d.clock.advance(0)
        await turns()
        [message] = d.take()
        assert (message["a"], message.get("c")) == (["add", 1, 2], channel)
        d.feed({"i": message["i"], "d": 3})
        assert await task == 3
    d.assert_empty()
    assert d.clock.next_deadline is not None  # the default timeout's, which is for all attempts


async def test_the_last_error_is_raised_as_it_is() -> None:
    d = Driven(dialer=True)
    task = start(d.peer.request("add", retry=Retry(attempts=2, initial=0.0)))
    await rejects(d, OVERLOADED)
    await rejects(d, DRAINING | {"data": 5})
    with pytest.raises(Draining) as caught:
        await task
    assert caught.value.data == 5
    await turns()
    d.expect()
    d.assert_empty()


async def test_too_many_requests_here_is_asked_again() -> None:
    d = Driven(dialer=True, limits=Limits(pending=1))
    first = start(d.peer.request("first"))
    number = await asked(d)
    second = start(d.peer.request("second", retry=AT_ONCE))
    await turns()
    d.expect()
    d.feed({"i": number, "d": 1})
    assert await first == 1
    d.feed({"i": await asked(d), "d": 2})
    assert await second == 2
    with pytest.raises(TooManyRequests):
        await asyncio.gather(*(d.peer.request("more", retry=Retry(attempts=1)) for _ in range(2)))


async def test_a_full_queue_is_asked_again() -> None:
    d = redialing(limits=Limits(offline=1))
    d.transport.lose()
    await d.peer.emit("fills it")
    task = start(d.peer.request("q", retry=AT_ONCE))
    await turns()
    d.rebind()
    d.take()
    d.feed({"i": await asked(d), "d": 1})
    assert await task == 1
    d.transport.lose()
    await d.peer.emit("fills it")
    with pytest.raises(QueueFull):
        await d.peer.request("q", retry=Retry(attempts=1))


async def test_what_was_refused_without_a_connection_is_asked_again() -> None:
    d = redialing()
    d.transport.lose()
    task = start(d.peer.request("q", retry=Retry(initial=1.0, attempts=5), offline="fail"))
    await turns()
    assert not task.done()
    d.rebind()
    d.clock.advance(1.0)
    d.feed({"i": await asked(d), "d": 1})
    assert await task == 1


@pytest.mark.parametrize(
    "error",
    [
        {"message": "no"},
        {"message": "internal error", "code": "wsrpc.internal"},
        {"message": "bad", "code": "wsrpc.bad_arguments"},
        {"message": "what?", "code": "wsrpc.unknown_event"},
    ],
)
async def test_an_answer_is_an_answer(error: dict[str, Any]) -> None:
    d = Driven(dialer=True)
    task = start(d.peer.request("q", retry=AT_ONCE, idempotent=True))
    await rejects(d, error)
    with pytest.raises(RemoteError):
        await task
    d.expect()


async def test_a_bad_result_is_an_answer() -> None:
    d = Driven(dialer=True)
    task = start(d.peer.request("q", returns=int, retry=AT_ONCE, idempotent=True))
    d.feed({"i": await asked(d), "d": "text"})
    with pytest.raises(BadResult):
        await task


async def test_mistakes_are_raised_at_once() -> None:
    d = Driven(dialer=True)
    with pytest.raises(TypeError):
        await d.peer.request("q", object(), retry=AT_ONCE)
    with pytest.raises(ValueError, match="timeout="):
        await d.peer.request("q", retry=AT_ONCE, timeout=-1)
    with pytest.raises(ValueError, match="reserved"):
        await d.peer.request("open", retry=AT_ONCE)
    d.assert_empty()


# ---------------------------------------------------------------- what may have run


async def test_what_may_have_run_is_asked_again_only_if_that_does_no_harm() -> None:
    d = redialing()
    plain = start(d.peer.request("plain", retry=AT_ONCE))
    harmless = start(d.peer.request("harmless", retry=AT_ONCE, idempotent=True))
    await turns()
    assert len(d.take()) == 2
    d.transport.lose(CloseInfo(1006, "dropped"))
    with pytest.raises(ConnectionLost) as caught:
        await plain
    assert caught.value.outcome == "unknown"
    d.rebind()
    d.feed({"i": await asked(d), "d": 1})
    assert await harmless == 1
    d.assert_empty()


@pytest.mark.parametrize(
    "retry",
    [
        lambda error: True,
        tenacity.retry_if_exception_type(BaseException),
        tenacity.retry_always,
    ],
)
async def test_no_condition_asks_again_for_what_may_have_run(retry: Any) -> None:
    d = redialing()
    task = start(d.peer.request("q", retry=Retry(retry=retry, initial=0.0)))
    await asked(d)
    d.transport.lose()
    with pytest.raises(ConnectionLost):
        await task
    d.rebind()
    await turns()
    d.expect()


async def test_the_outcome_is_that_of_all_attempts() -> None:
    d = redialing()
    task = start(d.peer.request("q", retry=AT_ONCE, idempotent=True, timeout=None))
    await asked(d)
    d.transport.lose()
    await turns()
    d.clock.advance(0)
    await turns()  # the second attempt waits in the queue, and is never sent
    await d.peer.close(4000, "bye")
    with pytest.raises(ConnectionLost) as caught:
        await task
    assert (caught.value.code, caught.value.outcome) == (4000, "unknown")
    assert isinstance(cause := caught.value.__cause__, ConnectionLost) and cause.outcome == "not_sent"


async def test_a_refusal_after_what_may_have_run_does_not_say_that_nothing_ran() -> None:
    d = redialing()
    task = start(d.peer.request("q", retry=Retry(attempts=2, initial=0.0), idempotent=True, timeout=None))
    await asked(d)
    d.transport.lose()
    d.rebind()
    await turns()
    d.clock.advance(0)
    await rejects(d, OVERLOADED)
    with pytest.raises(ConnectionLost) as caught:
        await task
    assert (caught.value.code, caught.value.outcome) == (1006, "unknown")
    assert isinstance(caught.value.__cause__, Overloaded)


@pytest.mark.parametrize(
    ("refused", "cause"),
    [
        (OVERLOADED, Overloaded),
        (DRAINING, Draining),
        ({"message": "bad", "code": "wsrpc.bad_arguments"}, BadArguments),
        ({"message": "what?", "code": "wsrpc.unknown_event"}, UnknownEvent),
        ("too big", MessageTooBig),
        ("cannot be encoded", TypeError),
        ("too many", TooManyRequests),
        ("queue full", QueueFull),
    ],
)
async def test_whatever_refuses_the_last_attempt_the_first_one_may_have_run(refused: Any, cause: Any) -> None:
    d = redialing(limits=Limits(pending=2, offline=1, sent_message=1000))
    arguments: list[Any] = []
    policy = Retry(attempts=2, initial=0.0)
    task = start(d.peer.request("pay", arguments, retry=policy, idempotent=True, timeout=None))
    await asked(d)
    d.transport.lose()
    await turns()  # the second attempt comes when the clock moves
    if refused == "too big":
        arguments.append("x" * 1000)
        d.rebind()
    elif refused == "cannot be encoded":
        arguments.append(object())
    elif refused == "queue full":
        await d.peer.emit("fills it")
    elif refused == "too many":
        d.rebind()
        others = [start(d.peer.request("other", timeout=None)) for _ in range(2)]
        await turns()
    else:
        d.rebind()
    d.clock.advance(0)
    await turns()
    if isinstance(refused, dict):
        await rejects(d, refused)
    with pytest.raises(ConnectionLost) as caught:
        await task
    assert caught.value.outcome == "unknown"
    assert isinstance(caught.value.__cause__, cause)
    if refused == "too many":
        await d.peer.close()
        await asyncio.wait(others)


@pytest.mark.parametrize("error", [{"message": "no"}, {"message": "internal error", "code": "wsrpc.internal"}])
async def test_an_answer_after_what_may_have_run_is_the_answer(error: dict[str, Any]) -> None:
    d = redialing()
    task = start(d.peer.request("q", retry=AT_ONCE, idempotent=True))
    await asked(d)
    d.transport.lose()
    d.rebind()
    await turns()
    d.clock.advance(0)
    await rejects(d, error)
    with pytest.raises(RemoteError) as caught:
        await task
    assert str(caught.value) == error["message"]


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("reconnect", [True, False])
async def test_over_a_real_drop(reconnect: bool) -> None:
    server = Server(limits=Limits(replay=0))  # the session ends with its connection
    calls = 0
    started = asyncio.Event()

    @server.on("count")
    async def count() -> int:
        nonlocal calls
        calls += 1
        started.set()
        if calls == 1:
            await asyncio.Event().wait()
        return calls

    async with asyncio.timeout(8), server.listen() as listener:
        policy = Reconnect(initial=0.001, max=0.001) if reconnect else None
        async with Client(listener.url, reconnect=policy) as client:
            task = asyncio.create_task(client.request("count", returns=int, retry=AT_ONCE, idempotent=True))
            await started.wait()
            client.peer.info.underlying.transport.abort()
            if reconnect:
                assert await task == 2
            else:  # no other connection comes
                with pytest.raises(ConnectionLost) as caught:
                    await task
                assert caught.value.outcome == "unknown"


# ---------------------------------------------------------------- where no connection comes any more


async def test_a_client_that_is_closed_does_not_ask_again() -> None:
    d = redialing()
    task = start(d.peer.request("q", retry=Retry(initial=100.0), idempotent=True, timeout=None))
    await asked(d)
    await d.peer.close()
    with pytest.raises(ConnectionLost):
        await task
    with pytest.raises(ConnectionLost) as caught:
        await d.peer.request("q", retry=Retry(initial=100.0), timeout=None)
    assert caught.value.outcome == "not_sent"
    assert d.clock.next_deadline is None


async def test_closing_while_it_waits_ends_it() -> None:
    d = redialing()
    task = start(d.peer.request("q", retry=Retry(wait=tenacity.wait_fixed(5)), idempotent=True))
    await asked(d)
    d.transport.lose()
    await turns()
    await d.peer.close()
    d.clock.advance(5)
    with pytest.raises(ConnectionLost):
        await task
    d.assert_empty()


async def test_a_servers_peer_whose_connection_is_gone_does_not_ask_again() -> None:
    server = Server()
    async with connect(server) as client:
        arrived = asyncio.Event()

        @client.on("wait")
        async def wait() -> None:
            arrived.set()
            await asyncio.Event().wait()

        [peer] = server.peers
        task = start(peer.request("wait", retry=Retry(initial=100.0), idempotent=True))
        await arrived.wait()
    with pytest.raises(ConnectionLost):
        await task
    with pytest.raises(ConnectionLost):
        await peer.request("wait", retry=Retry(initial=100.0))
    await server.close()


# ---------------------------------------------------------------- time


async def test_the_waits_are_random_and_their_range_doubles(longest: None) -> None:
    d = Driven(dialer=True)
    task = start(d.peer.request("q", retry=Retry(attempts=6, initial=1.0, max=5.0), timeout=None))
    for seconds in (1.0, 2.0, 4.0, 5.0, 5.0):
        await rejects(d, OVERLOADED)
        await turns()
        assert d.clock.next_deadline == d.clock.time() + seconds
        d.clock.advance(seconds)
    d.feed({"i": await asked(d), "d": 1})
    assert await task == 1


async def test_all_attempts_have_one_deadline() -> None:
    d = Driven(dialer=True)
    task = start(d.peer.request("q", retry=Retry(wait=tenacity.wait_fixed(4)), timeout=10))
    await turns()
    d.clock.advance(5)
    await rejects(d, OVERLOADED)
    await turns()
    d.clock.advance(4)
    number = await asked(d)
    d.clock.advance(0.5)
    await turns()
    assert not task.done()
    d.clock.advance(0.5)
    with pytest.raises(RequestTimeout) as caught:
        await task
    assert (caught.value.event, caught.value.timeout, caught.value.outcome) == ("q", 10, "unknown")
    assert isinstance(caught.value.__cause__, Overloaded)
    [cancel] = d.take()  # the attempt that runs over there is told
    assert cancel["i"] == number and "x" in cancel
    d.assert_empty()


@pytest.mark.parametrize("sent", [False, True])
async def test_a_timeout_while_offline_says_whether_an_earlier_attempt_was_sent(sent: bool) -> None:
    d = redialing()
    if not sent:
        d.transport.lose()
    task = start(d.peer.request("q", retry=Retry(wait=tenacity.wait_fixed(0)), idempotent=True, timeout=10))
    await turns()
    if sent:
        await asked(d)
        d.transport.lose()
    await turns()
    d.clock.advance(0)
    await turns()
    d.clock.advance(10)
    with pytest.raises(RequestTimeout) as caught:
        await task
    assert caught.value.outcome == ("unknown" if sent else "not_sent")


async def test_the_deadline_may_be_over_between_two_attempts() -> None:
    d = Driven(dialer=True)
    task = start(d.peer.request("q", retry=Retry(wait=tenacity.wait_fixed(20)), timeout=10))
    await rejects(d, OVERLOADED)
    await turns()
    d.clock.advance(9.9)
    await turns()
    assert not task.done()
    d.clock.advance(0.1)
    with pytest.raises(RequestTimeout) as caught:
        await task
    assert caught.value.timeout == 10
    assert isinstance(caught.value.__cause__, Overloaded)
    d.assert_empty()


@pytest.mark.parametrize(("timeout", "seconds"), [({}, 7.0), ({"timeout": 3}, 3)])
async def test_a_timeout_is_not_asked_again(timeout: dict[str, Any], seconds: float) -> None:
    d = Driven(dialer=True, limits=Limits(timeout=7.0))
    task = start(d.peer.request("q", retry=Retry(retry=lambda error: True), idempotent=True, **timeout))
    await asked(d)
    d.clock.advance(seconds)
    with pytest.raises(RequestTimeout) as caught:
        await task
    assert (caught.value.timeout, caught.value.__cause__) == (seconds, None)


async def test_without_a_timeout_it_waits_for_ever() -> None:
    d = Driven(dialer=True)
    task = start(d.peer.request("q", retry=Retry(wait=tenacity.wait_fixed(1e6)), timeout=None))
    await rejects(d, OVERLOADED)
    await turns()
    d.clock.advance(1e6)
    d.feed({"i": await asked(d), "d": 1})
    assert await task == 1
    assert d.clock.next_deadline is None


# ---------------------------------------------------------------- tenacity's own


async def test_stop_and_wait_take_the_place_of_numbers() -> None:
    d = Driven(dialer=True)
    policy = Retry(attempts=1, stop=tenacity.stop_after_attempt(3), wait=tenacity.wait_fixed(2))
    task = start(d.peer.request("q", retry=policy))
    for _ in range(2):
        await rejects(d, OVERLOADED)
        await turns()
        d.clock.advance(2)
    await rejects(d, OVERLOADED)
    with pytest.raises(Overloaded):
        await task


def busy(error: BaseException) -> bool:
    return isinstance(error, RemoteError) and error.code == "busy"


@pytest.mark.parametrize("seconds", [math.nan, -5.0])
@pytest.mark.parametrize("timeout", [60.0, None])
async def test_a_wait_that_makes_no_sense_is_none(seconds: float, timeout: float | None) -> None:
    class Senseless(wait_base):
        def __call__(self, retry_state: tenacity.RetryCallState) -> float:
            return seconds

    d = Driven(dialer=True)
    task = start(d.peer.request("q", retry=Retry(wait=Senseless()), timeout=timeout))
    await rejects(d, OVERLOADED)
    await turns()
    d.clock.advance(0)
    await turns()
    d.feed({"i": await asked(d), "d": 1})
    assert await task == 1


@pytest.mark.parametrize(
    "condition",
    [
        busy,
        tenacity.retry_if_exception(busy),
    ],
)
async def test_a_condition_adds_kinds_and_removes_them(condition: Any) -> None:
    d = Driven(dialer=True)
    task = start(d.peer.request("q", retry=Retry(retry=condition, initial=0.0)))
    await rejects(d, {"message": "later", "code": "busy"})
    await rejects(d, OVERLOADED)
    with pytest.raises(RemoteError) as caught:
        await task
    # `Overloaded` would say that nothing ran, and the first attempt did.
    assert caught.value.code == "busy" and isinstance(caught.value.__cause__, Overloaded)
    await turns()
    d.expect()


async def test_one_policy_serves_many_calls_at_once() -> None:
    d = Driven(dialer=True)
    tasks = [start(d.peer.request("q", n, retry=AT_ONCE)) for n in range(10)]
    for _ in range(2):
        await turns()
        d.clock.advance(0)
        await turns()
        d.feed(*({"i": message["i"], "e": OVERLOADED, "_": 1} for message in d.take()))
    await turns()
    d.clock.advance(0)
    await turns()
    d.feed(*({"i": message["i"], "d": message["a"][1]} for message in d.take()))
    assert await asyncio.gather(*tasks) == list(range(10))


# ---------------------------------------------------------------- cancelling


async def test_cancelling_an_attempt_cancels_its_handler() -> None:
    d = Driven(dialer=True)
    task = start(d.peer.request("q", retry=Retry(retry=lambda error: True), idempotent=True))
    number = await asked(d)
    task.cancel("bored")
    with pytest.raises(asyncio.CancelledError, match="bored"):
        await task
    d.expect({"i": number, "x": "bored"})
    d.assert_empty()


async def test_cancelling_between_two_attempts_leaves_nothing() -> None:
    d = Driven(dialer=True)
    task = start(d.peer.request("q", retry=Retry(wait=tenacity.wait_fixed(5)), timeout=None))
    await rejects(d, OVERLOADED)
    await turns()
    assert d.clock.next_deadline == 5
    task.cancel("bored")
    d.clock.advance(5)  # the wait is over in the same turn
    with pytest.raises(asyncio.CancelledError, match="bored"):
        await task
    assert d.clock.next_deadline is None
    d.expect()
    d.assert_empty()


@pytest.mark.usefixtures("nothing_left")
async def test_a_call_that_was_never_awaited_on_is_closed_in_peace() -> None:
    d = Driven(dialer=True)
    coroutine = d.peer.request("q", retry=AT_ONCE)
    coroutine.send(None)
    coroutine.close()
    d.assert_empty()


# ---------------------------------------------------------------- mistakes


async def test_what_goes_with_what() -> None:
    client = Client()
    for caller in (client, client.peer, client.of("room")):
        with pytest.raises(TypeError, match=r"retry=wsrpc.Retry\(\)"):
            await caller.request("q", idempotent=True)
        with pytest.raises(TypeError, match="a second time"):
            await caller.request("q", retry=Retry(), send=[1])
        for wrong in (True, 3, Retry, Reconnect()):
            with pytest.raises(TypeError, match=r"wsrpc.Retry"):
                await caller.request("q", retry=wrong)  # type: ignore[call-overload]


async def later(error: BaseException) -> bool:
    return True


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"attempts": 0}, ValueError, "attempts"),
        ({"attempts": "3"}, TypeError, "1 or more; got '3'"),
        ({"initial": -1.0}, ValueError, "initial"),
        ({"max": float("nan")}, ValueError, "max"),
        ({"wait": 1.0}, TypeError, "wait_fixed"),
        ({"wait": tenacity.wait_fixed}, TypeError, "wait_fixed"),
        ({"wait": lambda state: 1.0}, TypeError, "wait_fixed"),
        ({"stop": 5}, TypeError, "stop_after_attempt"),
        ({"stop": lambda state: True}, TypeError, "stop_after_attempt"),
        ({"retry": Overloaded}, TypeError, "plain function"),
        ({"retry": tenacity.retry_if_exception_type}, TypeError, "plain function"),
        ({"retry": later}, TypeError, "plain function"),
        ({"retry": True}, TypeError, "plain function"),
    ],
)
def test_a_policy_that_is_none(options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        Retry(**options)


def test_a_policy_is_a_value() -> None:
    check: Callable[[BaseException], bool] = busy
    assert Retry(attempts=5, retry=check) == Retry(attempts=5, retry=check)
    assert hash(Retry()) == hash(Retry())
    assert repr(Retry()) == "Retry(attempts=3, initial=0.1, max=5.0, wait=None, stop=None, retry=None)"
