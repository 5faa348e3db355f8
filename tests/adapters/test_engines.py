"""The contract of `wsrpc.cluster.engine`, for each engine, on real servers. `test_engines_lost` has what goes wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator

import pytest
from engine_servers import EngineServer
from engines_in_use import CONNECT, KINDS, START, Connect, check_over
from engines_in_use import connect as connect
from engines_in_use import subject as subject

from wsrpc import MessageTooBig
from wsrpc.cluster import MemoryEngine
from wsrpc.cluster.engine import Engine
from wsrpc.errors import EngineLost


@pytest.fixture(scope="session")
def servers() -> Generator[Callable[[str], EngineServer]]:
    """The servers that all tests share, each started when it is first asked for."""
    started: dict[str, EngineServer] = {}

    def server(kind: str) -> EngineServer:
        if kind not in started:
            started[kind] = START[kind]()
        return started[kind]

    yield server
    for process in started.values():
        process.kill()


@pytest.fixture(params=KINDS)
def engine(request: pytest.FixtureRequest, servers: Callable[[str], EngineServer]) -> Engine:
    kind: str = request.param
    return MemoryEngine() if kind == "memory" else CONNECT[kind](servers(kind).url)


# ---------------------------------------------------------------- messages


async def test_messages_of_a_publisher_come_in_order_and_once(connect: Connect, subject: str) -> None:
    subscriber, heard = await connect()
    await subscriber.subscribe(subject)
    publishers = [(await connect())[0] for _ in range(2)]
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


async def test_any_bytes_arrive_up_to_the_largest_message_and_a_larger_one_is_refused(
    connect: Connect, subject: str
) -> None:
    connection, heard = await connect()
    await connection.subscribe(subject)
    await connection.subscribe(subject)  # each message comes once all the same
    with pytest.raises(MessageTooBig, match=f"at most {connection.largest} bytes"):
        connection.publish(subject, bytes(connection.largest + 1))
    payloads = [b"", b"\r\n", bytes(range(256)), b"PONG", b"$-1\r\n", bytes(connection.largest), b"next"]
    for payload in payloads:
        connection.publish(subject, payload)
    await heard.number(len(payloads))
    assert heard.payloads == payloads


async def test_an_engine_tells_whether_anybody_hears_a_message(connect: Connect, subject: str) -> None:
    (asker, heard), (subscriber, got) = await connect(), await connect()
    await asker.subscribe(f"{subject}.all")
    await asker.subscribe(f"{subject}.asker")
    await subscriber.subscribe(f"{subject}.all")
    await subscriber.subscribe(f"{subject}.other")
    is_received: Callable[[str, bytes], Awaitable[bool]] = asker.is_received  # type: ignore[attr-defined]
    for number in range(20):
        asker.publish(f"{subject}.all", b"%d" % number)  # among messages, and several at once
        names = ("other", "nobody", "other")
        answers = await asyncio.gather(*(is_received(f"{subject}.{name}", b"?") for name in names))
        assert answers == [True, False, True]
    await got.number(60)
    await heard.number(20)
    assert {said for said, _ in heard.got} == {f"{subject}.all"} and got.payloads.count(b"?") == 40
    await subscriber.close()
    while await is_received(f"{subject}.other", b"?"):  # noqa: ASYNC110 - the broker has to notice the end
        await asyncio.sleep(0.01)


# ---------------------------------------------------------------- subscribing


async def test_what_is_published_after_subscribe_has_returned_comes(connect: Connect, subject: str) -> None:
    subscriber, heard = await connect()
    publisher, _ = await connect()
    for number in range(50):
        # What waits to be written must not be overtaken by the question whether the subscription is there.
        for _ in range(20):
            subscriber.publish("elsewhere", bytes(2000))
        await subscriber.subscribe(f"{subject}.{number}")
        publisher.publish(f"{subject}.{number}", b"hello")
    await heard.number(50)


async def test_nothing_comes_after_unsubscribe_has_returned(connect: Connect, subject: str) -> None:
    subscriber, heard = await connect()
    publisher, _ = await connect()
    await subscriber.subscribe(subject)
    await subscriber.subscribe("sentinel")
    publisher.publish(subject, b"before")
    await heard.number(1)
    for _ in range(100):
        publisher.publish(subject, b"meanwhile")
    await subscriber.unsubscribe(subject)
    so_far = len(heard.got)
    await subscriber.unsubscribe(subject)
    publisher.publish(subject, b"after")
    publisher.publish("sentinel", b"")
    await heard.until(lambda: heard.got[-1][0] == "sentinel")
    assert len(heard.got) == so_far + 1
    await subscriber.subscribe(subject)
    publisher.publish(subject, b"again")
    await heard.until(lambda: heard.got[-1] == (subject, b"again"))
    assert b"after" not in heard.payloads


async def test_applications_with_other_names_do_not_hear_each_other(connect: Connect, subject: str) -> None:
    applications = {name: await connect() for name in (subject, f"{subject}.x", f"{subject}x")}
    for name, (connection, _) in applications.items():
        await connection.subscribe(name)
    for name, (connection, _) in applications.items():
        connection.publish(name, name.encode())
    for name, (_, heard) in applications.items():
        await heard.number(1)
        assert heard.got == [(name, name.encode())]


# ---------------------------------------------------------------- the end


async def test_close_writes_what_was_published_and_refuses_more(connect: Connect, subject: str) -> None:
    subscriber, heard = await connect()
    await subscriber.subscribe(subject)
    publisher, recorder = await connect()
    for number in range(1000):
        publisher.publish(subject, b"%d" % number + bytes(1000))
    closing = [asyncio.ensure_future(publisher.close()) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(EngineLost):
        publisher.publish(subject, b"after")
    await asyncio.gather(*closing)
    assert recorder.reasons == ["closed"]
    await heard.number(1000)
    await check_over(publisher, recorder)
