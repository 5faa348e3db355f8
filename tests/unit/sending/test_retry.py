"""``request(retry=, idempotent=)``: what is asked again, when, and within what time."""

from __future__ import annotations

import asyncio
import math
import random
from typing import Any

import pytest
import tenacity
from core_driver import Driven, redialing, start
from leftovers import nothing_left as nothing_left
from waiting import settled

import wsrpc
from wsrpc import ConnectionLost, Limits, Overloaded, QueueFull, RemoteError, RequestTimeout, Retry, TooManyRequests
from wsrpc.codecs import JsonCodec

SOON = Retry(attempts=3, wait=tenacity.wait_fixed(0.9))
LIMITS = Limits(pending=2, offline=1, sent_message_bytes=1000)
OVERLOADED = {"message": "no place", "code": "wsrpc.overloaded"}
REJECTED: dict[str, dict[str, Any]] = {
    "overloaded": OVERLOADED,
    "draining": {"message": "closing", "code": "wsrpc.draining"},
    "bad arguments": {"message": "bad", "code": "wsrpc.bad_arguments"},
    "unknown event": {"message": "what?", "code": "wsrpc.unknown_event"},
    "rejected": {"message": "no"},
    "failed": {"message": "internal error", "code": "wsrpc.internal"},
}


async def asked(d: Driven) -> int:
    """The id of the one request that was sent."""
    await asyncio.sleep(1)
    [number] = [message["i"] for message in d.take() if "i" in message]
    return int(number)


async def rejects(d: Driven, error: dict[str, Any]) -> None:
    d.feed({"i": await asked(d), "e": error, "_": 1})


class Attempts:
    """A request with ``retry=`` whose attempts meet what the test says."""

    def __init__(self, **options: Any) -> None:
        self.d = redialing(limits=LIMITS)
        self.argument: list[Any] = []
        self.options = {"retry": SOON, "timeout": None, "returns": int, **options}
        self.others: list[asyncio.Task[Any]] = []

    def start(self) -> None:
        self.task = start(self.d.peer.request("pay", self.argument, **self.options))

    async def before(self, kind: str) -> None:
        """Do what has to be there before the attempt, if it meets ``kind``."""
        if kind in ("queue full", "not connected"):
            self.d.transport.lose()
        if kind == "queue full":
            await self.d.peer.emit("fills it")
        elif kind == "too many":
            self.others = [start(self.d.peer.request("other", timeout=None)) for _ in range(2)]
            await settled()
        elif kind == "too big":
            self.argument.append("x" * 1000)
        elif kind == "cannot be encoded":
            self.argument.append(object())

    async def meets(self, kind: str) -> None:
        """Let the attempt that has begun meet ``kind``, and what would refuse the next one be over."""
        await settled()
        if kind in REJECTED:
            await rejects(self.d, REJECTED[kind])
        elif kind == "wrong type":
            self.d.feed({"i": await asked(self.d), "d": "text"})
        elif kind == "dropped":
            await asked(self.d)
            self.d.transport.lose()
            self.d.rebind()
        elif kind in ("queue full", "not connected"):
            self.d.rebind()
        elif kind == "too many":
            self.d.feed(*({"i": message["i"]} for message in self.d.take()))


@pytest.mark.parametrize(
    ("kind", "harmless", "error"),
    [
        # what the first attempt meets, whether the request is idempotent, and what is raised; None: it is asked again
        *((kind, False, None) for kind in ("overloaded", "draining", "too many", "queue full", "not connected")),
        ("dropped", True, None),
        ("dropped", False, ConnectionLost),
        ("bad arguments", True, wsrpc.BadArguments),
        ("unknown event", True, wsrpc.UnknownEvent),
        ("rejected", True, RemoteError),
        ("failed", True, wsrpc.HandlerFailed),
        ("wrong type", True, wsrpc.BadResult),
        ("too big", True, wsrpc.MessageTooBig),
        ("cannot be encoded", True, TypeError),
    ],
)
async def test_what_is_asked_again(kind: str, harmless: bool, error: type[Exception] | None) -> None:
    attempts = Attempts(idempotent=harmless, offline="fail" if kind == "not connected" else None)
    if error is ConnectionLost:  # no condition asks again for what may have run
        attempts.options["retry"] = Retry(retry=tenacity.retry_always)
    await attempts.before(kind)
    attempts.start()
    await attempts.meets(kind)
    if error is None:
        attempts.d.feed({"i": await asked(attempts.d), "d": 1})
        assert await attempts.task == 1
    else:
        with pytest.raises(error) as caught:
            await attempts.task
        assert type(caught.value) is error
        assert error is not ConnectionLost or getattr(caught.value, "outcome", "") == "unknown"
        await asyncio.sleep(100)
        attempts.d.expect()
    attempts.d.assert_empty()


@pytest.mark.parametrize(
    ("kind", "cause"),
    [
        ("overloaded", Overloaded),
        ("too many", TooManyRequests),
        ("queue full", QueueFull),
        ("closed", ConnectionLost),
        ("late", ConnectionLost),
        ("rejected", None),
    ],
)
async def test_whatever_the_last_attempt_meets_the_first_one_may_have_run(kind: str, cause: Any) -> None:
    """An answer is the answer, though."""
    policy = Retry(attempts=2, wait=tenacity.wait_fixed(0.9))
    attempts = Attempts(idempotent=True, retry=policy, timeout=5.0 if kind == "late" else None)
    attempts.start()
    await asked(attempts.d)
    attempts.d.transport.lose()
    if kind not in ("closed", "late", "queue full"):
        attempts.d.rebind()
    await attempts.before(kind)
    await asyncio.sleep(1)
    if kind == "closed":  # it waits in the queue, and is never sent
        await attempts.d.peer.close(4000, "bye")
    elif kind != "late":
        await attempts.meets(kind)
    with pytest.raises((ConnectionLost, RequestTimeout) if cause else RemoteError) as caught:
        await attempts.task
    if isinstance(caught.value, RequestTimeout):
        assert kind == "late" and caught.value.outcome == "unknown"
    if isinstance(caught.value, ConnectionLost):
        assert (caught.value.outcome, caught.value.code) == ("unknown", 4000 if kind == "closed" else 1006)
        assert isinstance(caught.value.__cause__, cause)


async def test_each_attempt_is_the_same_request_and_the_last_error_is_raised() -> None:
    d = Driven(dialer=True)
    value = [1]
    task = start(d.peer.of("room").request("add", value, 2, retry=SOON))
    for number in range(3):
        await asyncio.sleep(1)
        [message] = d.take()
        assert (message["a"], message["c"]) == (["add", [1], 2], "room")
        value.append(number)
        d.feed({"i": message["i"], "e": {**OVERLOADED, "data": number}, "_": 1})
    with pytest.raises(Overloaded) as caught:
        await task
    assert caught.value.data == 2
    d.assert_empty()


# ---------------------------------------------------------------- where no connection comes any more


@pytest.mark.parametrize("when", ["it is asked", "it waits for the next attempt", "before", "a server's peer"])
async def test_what_has_no_next_connection_does_not_ask_again(when: str) -> None:
    d = Driven() if when == "a server's peer" else redialing()
    if when == "before":
        await d.peer.close()
    task = start(d.peer.request("q", retry=Retry(wait=tenacity.wait_fixed(5)), idempotent=True, timeout=None))
    await settled()
    if when in ("it waits for the next attempt", "a server's peer"):
        d.transport.lose()
        await settled()
    if when != "a server's peer":
        await d.peer.close()
    with pytest.raises(ConnectionLost) as caught:
        await task
    assert caught.value.outcome == ("not_sent" if when == "before" else "unknown")
    d.assert_empty()


# ---------------------------------------------------------------- time


@pytest.mark.parametrize(
    ("policy", "chance", "waits"),
    [
        (Retry(attempts=6, initial=1.0, max=5.0), max, [1.0, 2.0, 4.0, 5.0, 5.0]),
        # They took at most 0.3 s. A client dials up to 0.8 s after close code 1012, and 2.0 s after another failure.
        (Retry(), min, [0.1, 0.2, 0.4, 0.8, 1.6]),
        (Retry(attempts=1, stop=tenacity.stop_after_attempt(3), wait=tenacity.wait_fixed(2)), max, [2.0, 2.0]),
        (Retry(attempts=3, wait=tenacity.wait_fixed(1e6)), max, [1e6, 1e6]),
        (Retry(attempts=3, wait=tenacity.wait_fixed(math.nan)), max, [0.0, 0.0]),
        (Retry(attempts=3, wait=tenacity.wait_fixed(-5.0)), max, [0.0, 0.0]),
    ],
    ids=["numbers", "default", "tenacity's", "very long", "nan", "negative"],
)
async def test_the_waits(policy: Retry, chance: Any, waits: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "uniform", chance)
    d = Driven(dialer=True)
    task = start(d.peer.request("q", retry=policy, timeout=1e9))
    for seconds in waits:
        await settled()
        d.feed({"i": d.take()[0]["i"], "e": OVERLOADED, "_": 1})
        if seconds:
            await asyncio.sleep(seconds - 0.01)
        d.expect()
        await asyncio.sleep(0.01)
    await rejects(d, OVERLOADED)
    with pytest.raises(Overloaded):
        await task
    d.assert_empty()


@pytest.mark.parametrize("over", ["in the first attempt", "in the second attempt", "between two"])
async def test_all_attempts_have_one_deadline(over: str) -> None:
    d = Driven(dialer=True, limits=Limits(request_timeout=10.0))
    wait = 20 if over == "between two" else 4
    policy = Retry(retry=lambda error: True, wait=tenacity.wait_fixed(wait))
    began = asyncio.get_running_loop().time()
    task = start(d.peer.request("q", retry=policy, idempotent=True))
    await asyncio.sleep(4)
    if over != "in the first attempt":
        await rejects(d, OVERLOADED)
    await asyncio.sleep(4.9)
    assert not task.done()
    sent = d.take()
    with pytest.raises(RequestTimeout) as caught:
        await task
    assert asyncio.get_running_loop().time() - began == pytest.approx(10, abs=0.5)
    assert (caught.value.event, caught.value.timeout, caught.value.outcome) == ("q", 10, "unknown")
    assert isinstance(caught.value.__cause__, Overloaded) is (over != "in the first attempt")
    # The attempt whose handler runs is cancelled on the other side.
    assert [(message["i"], "x" in message) for message in d.take()] == [(message["i"], True) for message in sent]
    d.assert_empty()


# ---------------------------------------------------------------- conditions


def busy(error: BaseException) -> bool:
    return isinstance(error, RemoteError) and error.code == "busy"


@pytest.mark.parametrize("condition", [busy, tenacity.retry_if_exception(busy)])
async def test_a_condition_adds_kinds_and_removes_them(condition: Any) -> None:
    d = Driven(dialer=True)
    task = start(d.peer.request("q", retry=Retry(retry=condition, wait=tenacity.wait_fixed(0.9))))
    await rejects(d, {"message": "later", "code": "busy"})
    await rejects(d, OVERLOADED)
    with pytest.raises(RemoteError) as caught:
        await task
    # `Overloaded` would say that nothing ran, and the first attempt did.
    assert caught.value.code == "busy" and isinstance(caught.value.__cause__, Overloaded)
    await asyncio.sleep(10)
    d.expect()


# ---------------------------------------------------------------- mistakes


async def later(error: BaseException) -> bool:
    return True


def test_a_value_that_is_not_a_policy() -> None:
    wrong: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"attempts": 0}, ValueError, "attempts"),
        ({"attempts": "3"}, TypeError, "1 or more; got '3'"),
        ({"initial": -1.0}, ValueError, "initial"),
        ({"wait": 1.0}, TypeError, "wait_fixed"),
        ({"stop": lambda state: True}, TypeError, "stop_after_attempt"),
        *(({"retry": each}, TypeError, "plain function") for each in (Overloaded, tenacity.retry_if_exception, later)),
    ]
    for options, error, text in wrong:
        with pytest.raises(error, match=text):
            Retry(**options)


class Sealed(JsonCodec):
    """JSON that this side cannot read after it has encoded it."""

    def __init__(self) -> None:
        super().__init__()
        encode = self.encode
        self.encode = lambda message: encode(message).replace(b'"a"', b'"sealed"')


async def test_a_codec_need_not_decode_what_it_has_encoded() -> None:
    d = redialing(codec=Sealed())
    call = start(d.peer.request("mine", 7, retry=SOON, timeout=None))
    await settled()
    [message] = d.take()
    assert message["sealed"] == ["mine", 7]
    d.feed({"i": message["i"], "d": "done"})
    assert await call == "done"


async def test_an_attempt_waits_as_long_as_the_error_says() -> None:
    d = redialing(limits=LIMITS)
    task = start(d.peer.request("pay", 1, retry=SOON, timeout=None))
    await rejects(d, OVERLOADED | {"retry_after": 5.0})
    await asyncio.sleep(4.5)
    assert d.take() == []
    d.feed({"i": await asked(d), "d": 3})
    assert await task == 3
