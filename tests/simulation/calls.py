"""What both sides serve, and the calls that both sides make."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import suppress
from math import inf
from typing import Any

from truth import Call, Truth

from wsrpc import AnonymousChannel, ConnectionLost, Context, Retry, RpcError
from wsrpc._core.api.registration import Registrar
from wsrpc.errors import RemoteError, RequestTimeout, WsrpcError
from wsrpc.testing import Simulation

__all__ = ["CALLS", "Caller", "serve"]


def serve(side: Registrar, truth: Truth) -> None:
    """Register what both sides serve."""

    @side.on("now")
    def now(ctx: Context, number: int) -> int:
        truth.begins(number)
        assert ctx.metadata == {"number": str(number)}, f"request {number} has the metadata {ctx.metadata}"
        return number

    @side.on("later")
    async def later(number: int, seconds: float) -> int:
        with truth.runs(number):
            await asyncio.sleep(seconds)
        return number

    @side.on("echo")
    async def echo(number: int, text: str) -> str:
        truth.begins(number)
        return text

    @side.on("fails")
    async def fails(number: int, how: str) -> None:
        truth.begins(number)
        if how == "is cancelled":
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(0)
        raise RpcError("as it should")

    @side.on("items")
    async def items(number: int, most: int, size: int, seconds: float) -> AsyncIterator[list[Any]]:
        item: list[Any] = [0, "x" * size]
        with truth.runs(number):
            for each in range(most):
                item[0] = each  # what was passed on before does not change
                yield item
                if each % 4 == 3:
                    await asyncio.sleep(seconds)

    @side.on("take")
    async def take(number: int, pause: float, items: AsyncIterator[list[Any]]) -> int:
        expected = 0
        with truth.runs(number) as call:
            async for each, filling in items:
                assert each == expected, f"item {each} of {call.name}, and not {expected}"
                expected += 1
                truth.holds(call.by, len(filling))
                try:
                    await asyncio.sleep(pause)
                finally:
                    truth.holds(call.by, -len(filling))
        return expected

    @side.on("store")
    async def store(number: int, data: bytes) -> int:
        truth.begins(number)
        return len(data)

    @side.on("talk")
    async def talk(number: int, channel: AnonymousChannel) -> None:
        heard = truth.talks[number]
        channel.on("count", lambda: len(heard))
        with truth.runs(number) as call:
            try:
                async for text in channel.events("say"):
                    assert text == len(heard) + 1, f"event {text} of {call.name}, and not {len(heard) + 1}"
                    heard.append(text)
                    await asyncio.sleep(0.01)
            finally:
                heard.append(0)

    @side.on("note", ordered=True)
    def note(sender: str, number: int, filling: str = "") -> None:
        truth.notes[sender].append(number)

    @side.on("mark")
    def mark(sender: str, number: int) -> int:
        truth.marks[sender].append((number, len(truth.notes[sender])))
        return number


class Caller:
    """Makes calls to a server, to a client, or to a client of another node."""

    life = ""
    """The life of the client that calls. Empty for a node."""

    def __init__(self, sim: Simulation, truth: Truth, target: Any = None) -> None:
        self.sim, self.truth, self.target = sim, truth, target

    async def told(self, call: Call, asking: Coroutine[Any, Any, Any], timeout: float | None = None) -> Any:
        """Note what the caller of a call is told, and see that it is told in time."""
        began, here = self.sim.now, self.sim.here.partition(" ")[0]
        served: Any = self.truth.served.get(str(getattr(self.target, "address", None)))
        was_away = served is not None and served.detached
        try:
            result = await asking
        except (WsrpcError, TimeoutError) as exc:
            call.told = getattr(exc, "outcome", "unknown")
            other = getattr(self.target, "address", self.target)
            if not self.life:
                self.sim.note(f"{call.name} to {other} ends: {exc}, and the outcome is {call.told!r}")
            is_away = was_away and served.detached and self.truth.resumed[served.address] < began
            # A node that nothing gets out of cannot know whether the node of that client has sent the call.
            is_away = is_away and (self.truth.at[served.address] == here or self.truth.hears_others(here, began))
            if is_away and isinstance(exc, RequestTimeout) and call.told == "unknown":
                raise AssertionError(
                    f"{call.name}, of {began:.3f}, was not sent: {other} was away. The outcome is {call.told!r}"
                ) from exc
            raise
        finally:
            call.ended = self.sim.now
            is_late = timeout is not None and self.sim.now > began + timeout + 0.6
            assert not is_late or not self.sim.is_well(here, since=began), (
                f"{call.name} ends {self.sim.now - began:g} s after it began, with a timeout of {timeout}"
            )
        call.told = "answered"
        return result

    async def pause(self) -> None:
        if self.sim.random.random() < 0.1:
            await asyncio.sleep(self.sim.random.random())

    async def request(self) -> None:
        random = self.sim.random
        event, args = random.choice([("now", ()), ("later", (random.choice([0.0, 1.0, 10.0]),))])
        timeout = random.choice([None, 0.5, 2.0, 60.0])
        number, call = self.truth.call(event)
        limit = random.choice([None, None, 0.3])
        options: dict[str, Any] = {"timeout": timeout, "metadata": {"number": str(number)}}
        if random.random() < 0.3:  # what may have run is not repeated
            options |= {"retry": Retry(), "idempotent": False}
        try:
            async with asyncio.timeout(limit):
                asking = self.target.request(event, number, *args, **options)
                assert await self.told(call, asking, timeout) == number
        except (RequestTimeout, TimeoutError):
            if timeout == 60.0 and not limit and self.truth.is_mild and not self.truth.may_be_late:
                raise

    async def many_requests(self) -> None:
        """More than may run at once, some of which are cancelled."""

        async def ask(seconds: float) -> None:
            number, call = self.truth.call("one of many requests")
            async with asyncio.timeout(seconds):
                await self.told(call, self.target.request("later", number, 0.2))

        limits = [self.sim.random.choice([0.1, 0.25, 0.5, 60.0]) for _ in range(12)]
        for outcome in await asyncio.gather(*map(ask, limits), return_exceptions=True):
            if outcome is not None and not isinstance(outcome, TimeoutError):
                raise outcome

    async def large_request(self) -> None:
        """One, or so many that their answers come while others leave."""
        text = "x" * min(self.sim.random.choice([3_000, 100_000, 700_000]), self.truth.largest)
        count = 1 if self.truth.drops_events else self.sim.random.choice([1, 4])

        async def ask() -> None:
            number, call = self.truth.call("large request")
            assert await self.told(call, self.target.request("echo", number, text)) == text

        for outcome in await asyncio.gather(*(ask() for _ in range(count)), return_exceptions=True):
            if outcome is not None:
                raise outcome

    async def failing_request(self) -> None:
        number, call = self.truth.call("failing request")
        try:
            how = self.sim.random.choice(["is cancelled", "raises"])
            await self.told(call, self.target.request("fails", number, how, timeout=None))
        except RemoteError as exc:
            self.sim.note(f"is told {exc!r}")

    def size(self) -> tuple[int, int]:
        return self.sim.random.choice([(3, 10), (50, 10), (40, 3000), (6, 200_000)])

    async def stream(self) -> None:
        number, call = self.truth.call("stream")
        most, size = self.size()
        items = self.target.stream("items", number, most, size, self.sim.random.choice([0.0, 0.5]), returns=list[Any])
        try:
            await self.told(call, self.read(items, most))
        except RemoteError as exc:
            if "nobody has begun to read" in exc.message:  # the generator was made, and has not begun
                call.told = "unknown"
            raise

    async def read(self, stream: Any, most: int) -> None:
        expected = 0
        async with stream:
            async for each, _ in stream:
                assert each == expected, f"item {each}, and not {expected}"
                expected += 1
                await self.pause()
        assert expected == most, f"{expected} items, and not {most}"

    async def upload(self) -> None:
        number, call = self.truth.call("upload")
        (most, size), fails = self.size(), self.sim.random.random() < 0.2
        error = self.sim.random.choice([LookupError("no more"), ConnectionLost(1006, "of another one", "not_sent")])
        item: list[Any] = [0, "x" * size]

        async def items() -> AsyncIterator[list[Any]]:
            for each in range(most):
                if fails and each == most - 1:
                    raise error
                item[0] = each
                yield item
                await self.pause()

        try:
            asking = self.target.request("take", number, 0.0, send=items(), timeout=None)
            assert await self.told(call, asking) == most
        except (LookupError, ConnectionLost) as exc:
            if exc is not error:
                raise

    async def conversation(self) -> None:
        number, call = self.truth.call("conversation")
        self.truth.talks[number] = heard = list[int]()
        count = self.sim.random.randint(1, 10)
        began, limit = self.sim.now, self.sim.random.choice([None, None, 0.3, 2.0])
        try:
            async with asyncio.timeout(limit):
                opened = await self.told(call, self.target.open_channel("talk", number))
        except TimeoutError:
            if self.life:
                await self.target.emit("left", number, began)
            return
        call.ended = inf
        try:
            async with opened as channel:
                for each in range(1, count + 1):
                    await channel.emit("say", each)
                    if self.sim.random.random() < 0.5:
                        await self.pause()
        finally:
            call.ended = self.sim.now
        if not self.life:
            return
        losses = self.truth.losses[self.life]
        await asyncio.sleep(30.0)
        is_lossy = losses != self.truth.losses[self.life] or self.truth.drops_events or not self.truth.is_mild
        assert heard == [*range(1, count + 1), 0] or is_lossy, f"{count} events were sent in a conversation: {heard}"

    async def short_stream(self) -> None:
        number, call = self.truth.call("short stream")
        await self.told(call, self.read(self.target.stream("items", number, 9, 10, 0.5, returns=list[Any]), 9))

    async def short_talk(self) -> None:
        """A conversation in which the one who has begun it asks something."""
        number, call = self.truth.call("short talk")
        self.truth.talks[number] = list[int]()
        async with await self.told(call, self.target.open_channel("talk", number)) as channel:
            call.ended = inf
            try:
                await channel.emit("say", 1)
                await asyncio.sleep(1.0)
                assert await channel.request("count", returns=int) in (0, 1)  # after a resume, it may not be read yet
            finally:
                call.ended = self.sim.now

    async def brink(self) -> None:
        """Calls that are given up at about the time of their answers."""
        random, began = self.sim.random, self.sim.now
        number, call = self.truth.call("request before the brink")
        await self.told(call, self.target.request("later", number, 0.0))
        there_and_back = self.sim.now - began

        async def give_up(each: int) -> None:
            number, call = self.truth.call("call on the brink")
            self.truth.talks[number] = list[int]()
            what: list[Callable[[], Any]] = [
                lambda: self.target.request("later", number, 0.0),
                lambda: self.target.open_channel("talk", number),
                lambda: self.target.open_channel("talk", number),
                lambda: self.read(self.target.stream("items", number, 6, 200_000, 0.0, returns=list[Any]), 6),
            ]
            answer: Any = None
            with suppress(TimeoutError):
                async with asyncio.timeout(there_and_back * random.uniform(0.0, 1.4)):
                    answer = await self.told(call, what[each % 4]())
            if isinstance(answer, AnonymousChannel):
                await answer.abort()

        for outcome in await asyncio.gather(*map(give_up, range(random.choice([4, 7, 11]))), return_exceptions=True):
            if outcome is not None:
                raise outcome


CALLS: dict[str, Callable[[Any], Coroutine[Any, Any, None]]] = {
    each.__name__.replace("_", " "): each
    for each in (
        Caller.request,
        Caller.many_requests,
        Caller.large_request,
        Caller.failing_request,
        Caller.stream,
        Caller.upload,
        Caller.conversation,
        Caller.short_talk,
        Caller.brink,
        Caller.brink,
    )
}
