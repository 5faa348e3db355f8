"""`ENGINE_CHECKS`: the contract of `wsrpc.cluster.engine`, against which any engine can be held."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import wraps

from ..cluster.engine import Engine, EngineConnection, EngineListener
from ..errors import EngineLost, MessageTooBig
from ._store_tools import raises

Connect = Callable[[], Engine]
"""Returns an engine as each process has it. All engines of one check reach the same broker."""


class Recorder:
    """Listener that records its calls, and lets a check wait for them."""

    def __init__(self) -> None:
        self.got: list[tuple[str, bytes]] = []
        self.reasons: list[str] = []
        self._called = asyncio.Event()

    def received(self, subject: str, payload: bytes, /) -> None:
        assert not self.reasons, f"{subject} arrived after the end"
        self.got.append((subject, payload))
        self._called.set()

    def lost(self, reason: str, /) -> None:
        self.reasons.append(reason)
        self._called.set()

    @property
    def payloads(self) -> list[bytes]:
        return [payload for _, payload in self.got]

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(60):
            while not condition():
                self._called.clear()
                await self._called.wait()

    async def number(self, count: int) -> None:
        """Wait for that many messages."""
        await self.until(lambda: len(self.got) >= count)
        assert len(self.got) == count

    async def ended(self) -> str:
        """Wait for the end, and return its reason."""
        await self.until(lambda: self.reasons)
        return self.reasons[0]


async def connect_to(engine: Engine, listener: EngineListener) -> EngineConnection:
    """Connect, and try again, as a node does: on a busy machine, an attempt may exceed its time."""
    async with asyncio.timeout(60):
        while True:
            try:
                return await engine.connect(listener)
            except EngineLost as exc:
                if not exc.reason.startswith("no response"):
                    raise


async def check_over(connection: EngineConnection, recorder: Recorder) -> None:
    """Check that calls on a connection that has ended raise the reason of the end."""
    [reason] = recorder.reasons
    assert reason
    with raises(EngineLost) as caught:
        await connection.subscribe("x")
    assert caught[0].reason == reason
    with raises(EngineLost) as caught:
        connection.publish("x", b"")
    assert (caught[0].reason, caught[0].outcome) == (reason, "not_sent")
    await connection.drain()
    await connection.close()
    await connection.close()
    assert recorder.reasons == [reason]


Open = Callable[[], Awaitable[tuple[EngineConnection, Recorder]]]
"""Opens a connection, with the listener that records what arrives there."""


@asynccontextmanager
async def connections(connect: Connect) -> AsyncGenerator[Open]:
    """Open connections in the block. Afterwards all are closed, and each has ended once."""
    made: list[tuple[EngineConnection, Recorder]] = []

    async def open() -> tuple[EngineConnection, Recorder]:
        recorder = Recorder()
        made.append((await connect_to(connect(), recorder), recorder))
        return made[-1]

    yield open
    for connection, recorder in made:
        await connection.close()
        assert len(recorder.reasons) == 1


def new_subject() -> str:
    """Return a subject that no other check uses."""
    return f"check-{secrets.token_hex(6)}.a_B.9"


_checks: list[Callable[[Connect], Awaitable[None]]] = []


def _check(function: Callable[[Open, str], Awaitable[None]]) -> None:
    """Add a check that calls ``function`` with what opens a connection, and a subject."""

    @wraps(function)
    async def check(connect: Connect) -> None:
        async with connections(connect) as open:
            await function(open, new_subject())

    _checks.append(check)


# ---------------------------------------------------------------- messages


@_check
async def messages_of_a_publisher_arrive_in_order_and_once(open: Open, subject: str) -> None:
    subscriber, heard = await open()
    await subscriber.subscribe(subject)
    publishers = [(await open())[0] for _ in range(2)]
    for number in range(1000):
        for name, publisher in enumerate(publishers):
            publisher.publish(subject, b"%d %d" % (name, number))
        if number % 7 == 0:
            await asyncio.sleep(0)
    await heard.number(2000)
    for name in range(2):
        mine = [payload for payload in heard.payloads if payload.startswith(b"%d " % name)]
        assert mine == [b"%d %d" % (name, number) for number in range(1000)]
    assert {said for said, _ in heard.got} == {subject}


@_check
async def bytes_arrive_up_to_the_largest_message_and_a_larger_is_refused(open: Open, subject: str) -> None:
    connection, heard = await open()
    await connection.subscribe(subject)
    await connection.subscribe(subject)  # each message arrives once all the same
    with raises(MessageTooBig) as caught:
        connection.publish(subject, bytes(connection.largest + 1))
    assert f"at most {connection.largest} bytes" in str(caught[0])
    payloads = [b"", b"\r\n", bytes(range(256)), b"PONG", b"$-1\r\n", bytes(connection.largest), b"next"]
    for payload in payloads:
        connection.publish(subject, payload)
    await heard.number(len(payloads))
    assert heard.payloads == payloads


@_check
async def is_received_reports_whether_anybody_got_a_message(open: Open, subject: str) -> None:
    """An engine may lack this method. Then there is nothing to check."""
    (asker, heard), (subscriber, got) = await open(), await open()
    is_received: Callable[[str, bytes], Awaitable[bool]] | None = getattr(asker, "is_received", None)
    if is_received is None:
        return
    await asker.subscribe(f"{subject}.all")
    await asker.subscribe(f"{subject}.asker")
    await subscriber.subscribe(f"{subject}.all")
    await subscriber.subscribe(f"{subject}.other")
    for number in range(20):
        asker.publish(f"{subject}.all", b"%d" % number)  # among messages, and several at once
        names = ("other", "nobody", "other")
        answers = await asyncio.gather(*(is_received(f"{subject}.{name}", b"?") for name in names))
        assert answers == [True, False, True]
    await got.number(60)
    await heard.number(20)
    assert {said for said, _ in heard.got} == {f"{subject}.all"} and got.payloads.count(b"?") == 40
    await subscriber.close()
    async with asyncio.timeout(60):
        while await is_received(f"{subject}.other", b"?"):  # noqa: ASYNC110 - the broker has to notice the end
            await asyncio.sleep(0.01)


# ---------------------------------------------------------------- subscribing


@_check
async def what_is_published_after_subscribe_has_returned_arrives(open: Open, subject: str) -> None:
    subscriber, heard = await open()
    publisher, _ = await open()
    for number in range(50):
        # What waits to be written must not be overtaken by the question whether the subscription is there.
        for _ in range(20):
            subscriber.publish(f"{subject}.elsewhere", bytes(2000))
        await subscriber.subscribe(f"{subject}.{number}")
        publisher.publish(f"{subject}.{number}", b"hello")
    await heard.number(50)


@_check
async def subjects_that_are_alike_do_not_share_messages(open: Open, subject: str) -> None:
    applications = {name: await open() for name in (subject, f"{subject}.x", f"{subject}x")}
    for name, (connection, _) in applications.items():
        await connection.subscribe(name)
    for name, (connection, _) in applications.items():
        connection.publish(name, name.encode())
    for name, (_, heard) in applications.items():
        await heard.number(1)
        assert heard.got == [(name, name.encode())]


# ---------------------------------------------------------------- the end


@_check
async def close_writes_what_was_published_and_refuses_more(open: Open, subject: str) -> None:
    subscriber, heard = await open()
    await subscriber.subscribe(subject)
    publisher, recorder = await open()
    for number in range(1000):
        publisher.publish(subject, b"%d" % number + bytes(1000))
    closing = [asyncio.ensure_future(publisher.close()) for _ in range(2)]
    await asyncio.sleep(0)
    with raises(EngineLost):
        publisher.publish(subject, b"after")
    await asyncio.gather(*closing)
    assert recorder.reasons == ["closed"]
    await heard.number(1000)
    await check_over(publisher, recorder)


ENGINE_CHECKS: tuple[Callable[[Connect], Awaitable[None]], ...] = tuple(_checks)
"""Checks of an engine, each with a name that says what must hold. A check gets a `Connect`, and raises
`AssertionError`. A broker that is killed or frozen is not part of them."""
