"""A tour of wsrpc in one run: a server and a client in this process call each other.

Each printed line was checked. The program exits with status 0 only if all of them are right.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass

from wsrpc import (
    BadArguments,
    Client,
    CloseInfo,
    ConnectionLost,
    Peer,
    Reconnect,
    ReconnectInfo,
    RemoteError,
    RpcError,
    Server,
)


@dataclass
class Point:
    x: float
    y: float


# ---------------------------------------------------------------- the server's handlers

server = Server()
stopped_because: asyncio.Queue[object] = asyncio.Queue()
chat: asyncio.Queue[str] = asyncio.Queue()
streams_closed = asyncio.Event()


@server.on("add")
def add(a: int, b: int) -> int:
    return a + b


@server.on("middle")
def middle(a: Point, b: Point) -> Point:
    return Point((a.x + b.x) / 2, (a.y + b.y) / 2)


@server.on("greet")
async def greet(peer: Peer) -> str:  # `peer` is not an argument of the request: it is the caller
    name = await peer.request("name", returns=str)
    return f"Hello, {name}!"


@server.on("nap")
async def nap(peer: Peer) -> None:
    try:
        await peer.emit("napping")
        await asyncio.Event().wait()
    except asyncio.CancelledError as cancelled:
        stopped_because.put_nowait(cancelled.args[0])
        raise


@server.on("withdraw")
def withdraw(amount: int) -> int:
    raise RpcError("not enough money", code="balance_too_low", data={"balance": 20, "wanted": amount})


@server.on("say")
def say(text: str) -> None:
    chat.put_nowait(text)


@server.on("squares")
async def squares() -> AsyncIterator[int]:  # a stream: it runs while the caller reads
    number = 0
    try:
        while True:
            yield number * number
            number += 1
    finally:
        streams_closed.set()


@server.on("total")
async def total_of(numbers: AsyncIterator[int]) -> int:  # a stream from the caller
    return sum([number async for number in numbers])


# ---------------------------------------------------------------- one run


def show(line: str, got: object, expected: object) -> None:
    """Print what happened; end the program if something else was expected."""
    if got != expected:
        raise SystemExit(f"{line}\ndemo failed: expected {expected!r}, got {got!r}")
    print(line)


# A call that does not fit its handler, a drop and a failed attempt to reconnect are warnings in the log.
logging.getLogger("wsrpc").setLevel(logging.ERROR)


async def calls() -> None:
    async with server.listen("127.0.0.1", 0) as listener:  # port 0 picks a free port
        client = Client(listener.url)
        napping = asyncio.Event()

        @client.on("double")  # clients can have handlers, too
        def double(number: int) -> int:
            return number * 2

        client.on("name", lambda: "Ada")
        client.on("napping", napping.set)

        async with client:
            total = await client.request("add", 2, 3, returns=int)
            show(f"client → server  add(2, 3) = {total}", total, 5)

            point = await client.request("middle", Point(0, 0), Point(4, 2), returns=Point)
            show(f"client → server  middle((0, 0), (4, 2)) = {point}", point, Point(2, 1))

            [peer] = server.peers
            doubled = await peer.request("double", 21)
            show(f"server → client  double(21) = {doubled}", doubled, 42)

            greeting = await client.request("greet", returns=str)
            show(
                f"both ways        greet() asks the client for its name() = {greeting!r}",
                greeting,
                "Hello, Ada!",
            )

            request = asyncio.create_task(client.request("nap"))
            await napping.wait()
            request.cancel("the alarm rang")
            await asyncio.wait([request])
            reason = await stopped_because.get()
            show(
                f"client ✗ server  nap() was cancelled, and its handler saw why: {reason!r}",
                reason,
                "the alarm rang",
            )

            refusal: object = None
            try:
                await client.request("withdraw", 50)
            except RemoteError as error:
                refusal = (error.message, error.code, error.data)
            expected = ("not enough money", "balance_too_low", {"balance": 20, "wanted": 50})
            show(f"client ✗ server  withdraw(50) was rejected: {refusal}", refusal, expected)

            complaint = None
            try:
                await client.request("add", 2, "three")
            except BadArguments as error:
                complaint = error.message
            wanted = "add(): argument 'b' (2nd): expected int, got str"
            show(f"client ✗ server  add(2, 'three') never ran: {complaint}", complaint, wanted)

            await client.emit("say", "good night")
            heard = await chat.get()
            show(f"client ⇢ server  event say({heard!r}), which has no answer", heard, "good night")

            read: list[int] = []
            async with client.stream("squares", returns=int) as items:
                async for item in items:
                    read.append(item)
                    if item > 10:
                        break
            await streams_closed.wait()
            show(
                f"client ⇇ server  stream squares(): {read}, and it stopped when the client stopped reading",
                read,
                [0, 1, 4, 9, 16],
            )

            summed = await client.request("total", send=range(1, 101), returns=int)
            show(f"client ⇉ server  total(1, 2, …, 100), sent one by one = {summed}", summed, 5050)


# ---------------------------------------------------------------- the connection is cut


async def drop() -> None:
    async with server.listen("127.0.0.1", 0) as listener:
        client = Client(listener.url, reconnect=Reconnect(initial=0.05, max=0.1))
        back: asyncio.Queue[bool] = asyncio.Queue()

        @client.on_reconnect
        def returned(info: ReconnectInfo) -> None:
            back.put_nowait(info.resumed)

        async with client, client.stream("squares", returns=int) as items:
            read = [await anext(items) for _ in range(3)]
            [peer] = server.peers
            assert peer.transport is not None
            peer.transport.abort()  # as a network does: neither side is told
            read += [await anext(items) for _ in range(3)]
            show(
                f"client ↻ server  the connection was cut in the middle of squares(): {read}, the session goes on",
                (read, await back.get()),
                ([0, 1, 4, 9, 16, 25], True),
            )


# ---------------------------------------------------------------- the server is restarted


def backend(name: str, may_end: asyncio.Event) -> Server:
    """Make one of the two servers that listen on the same port, one after the other."""
    server = Server()

    @server.on("work")
    async def work(peer: Peer) -> str:
        await peer.emit("working")
        await may_end.wait()
        return f"done by the {name}"

    @server.on("subscribe")
    async def subscribe(peer: Peer) -> None:
        await peer.emit("news", f"news of the {name}")

    return server


async def restart() -> None:
    may_end = asyncio.Event()
    working = asyncio.Event()
    endings: asyncio.Queue[CloseInfo] = asyncio.Queue()
    news: asyncio.Queue[str] = asyncio.Queue()

    async with backend("first", may_end).listen("127.0.0.1", 0) as listener:
        client = Client(listener.url, reconnect=Reconnect(initial=0.05, max=0.1))
        client.on("working", working.set)
        client.on("news", news.put_nowait)

        @client.on("close")
        def ended(peer: Peer, info: CloseInfo) -> None:
            endings.put_nowait(info)

        @client.on_reconnect
        async def subscribe_again(info: ReconnectInfo) -> None:  # the next server knows nothing of this client
            await client.request("subscribe")

        await client.connect()
        in_flight = asyncio.create_task(client.request("work"))
        await working.wait()

    # The block was left: nothing listens on the port now.
    ending = await endings.get()
    show(
        f"client ↻ server  the server went away ({ending.code} {ending.reason}), and the client dials",
        (ending.code, ending.will_reconnect),
        (1012, True),
    )

    outcome: object = None
    try:
        await in_flight
    except ConnectionLost as error:
        outcome = error.outcome
    show(f"client ✗ server  work() was in flight: whether it ran is {outcome!r}", outcome, "unknown")

    waiting = asyncio.create_task(client.request("work"))
    may_end.set()
    second = backend("second", may_end)
    async with second.listen("127.0.0.1", listener.port):
        done = await waiting
        show(
            f"client → server  work(), sent while there was no server, waited = {done!r}",
            done,
            "done by the second",
        )

        heard = await news.get()
        show(f"server ⇢ client  on_reconnect has subscribed again: {heard!r}", heard, "news of the second")

        may_end.clear()
        working.clear()
        begun = asyncio.create_task(client.request("work"))
        await working.wait()
        asyncio.get_running_loop().call_later(0.05, may_end.set)
        await second.close(drain_timeout=10)  # seconds, at most
        done = await begun
        show(
            f"client → server  work() was active when the server drained, and could end = {done!r}",
            done,
            "done by the second",
        )
    await client.close()


async def main() -> None:
    await calls()
    await drop()
    await restart()


if __name__ == "__main__":
    asyncio.run(asyncio.wait_for(main(), 20))  # seconds, in case it hangs
