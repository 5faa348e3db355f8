"""What the clients of the simulated world do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from functools import partial
from typing import Any

from nodes import read_items, serve, told
from truth import Hearing, Truth

from wsrpc import Client, CloseInfo, ConnectionLost, Context, Limits, Overloaded, Peer, Retry, RunLost
from wsrpc.errors import RemoteError, RequestTimeout, WsrpcError
from wsrpc.testing import Simulation

__all__ = ["CLIENTS", "User"]

URL = "ws://service:80/?who="
CLIENTS, STEPS = 4, 16


class User:
    """One life of a client."""

    def __init__(self, sim: Simulation, truth: Truth, limits: Limits) -> None:
        self.sim, self.truth = sim, truth
        self.life = sim.here
        self.name = self.life.partition(" ")[0]
        self.lobby_heard, self.news_heard = Hearing(self.life, truth), Hearing(self.life, truth)
        truth.hearings += [self.lobby_heard, self.news_heard]
        self.noted = 0
        self.client = Client(URL + self.name, proxy=None, limits=limits)
        serve(self.client, truth)
        self.client.on("welcome", lambda: None)
        self.lobby, self.hall = self.client.room("lobby"), self.client.room("hall")
        self.client.room("news").on_missed(self.news_heard.missed)
        self.lobby.on_missed(self.lobby_heard.missed)

        @self.client.on("said")
        def said(ctx: Context, text: str) -> None:
            assert ctx.position is not None
            heard = self.lobby_heard if ctx.room == "lobby" else self.news_heard
            heard.hear(f"{ctx.position} {ctx.room}", text)

        @self.client.on_reconnect
        def back(info: Any) -> None:
            if not info.resumed:
                truth.sessions[self.name].append(sim.now)
                self.truth.loses(self.life, info)
                self.news_heard.heard.append(None)
                sim.note("has another session")

        @self.client.on_detach
        def dropped(info: CloseInfo) -> None:
            sim.note(f"has lost its connection: {info.code} {info.reason}")
            assert not truth.has_no_drops, f"the connection has dropped: {info}"

        @self.client.on("close")
        def closed(peer: Peer, info: CloseInfo) -> None:
            truth.told_kicks.add(info.reason)
            assert info.code != 4410 or truth.nodes_end, "another one has taken the address"

    async def live(self) -> None:
        self.truth.finished.discard(self.name)
        async with self.client:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.join())
                async for _ in self.sim.steps(STEPS):
                    action = self.sim.random.choice(ACTIONS)
                    self.sim.note(action.__name__.replace("_", " "))
                    group.create_task(self.act(action))
                    await asyncio.sleep(self.sim.random.choice([0.0, 0.1, 1.0, 5.0]) * self.sim.random.random())
            self.truth.finished.add(self.name)
            while len(self.truth.finished) < CLIENTS or not self.sim.is_calm:  # noqa: ASYNC110 - in virtual time
                await asyncio.sleep(1.0)
            await self.finish()
            for _ in range(5):
                self.noted += 1
                await self.client.emit("note", self.life, self.noted)
            self.truth.sent[self.life] = self.noted

    async def join(self) -> None:
        await self.until_answered(self.hall.join)
        await self.until_answered(self.lobby.join)

    async def act(self, action: Callable[[User], Coroutine[Any, Any, None]]) -> None:
        name = action.__name__.replace("_", " ")
        try:
            await action(self)
        except (RequestTimeout, TimeoutError) as exc:
            self.sim.note(f"{name} ends: {exc!r}")
        except WsrpcError as exc:
            self.sim.note(f"{name} ends: {exc!r}")
            is_full = isinstance(exc, Overloaded) and self.truth.drops_events  # events take places, too
            is_unanswered = "knows keys" in str(exc)  # the first message of the session has got lost
            if self.truth.is_mild and not is_full and not is_unanswered:
                raise

    async def finish(self) -> None:
        """In the end, everybody is connected, hears everything, and is there."""
        await asyncio.sleep(40.0)
        assert self.client.connected, f"{self.name} is {self.client.state}"
        self.truth.last_words.append(await self.until_answered(partial(self.say_in, "lobby")))
        await asyncio.sleep(20.0)
        everybody = sorted(f"client-{each}" for each in range(CLIENTS))
        present = await self.until_answered(partial(self.client.request, "who", returns=list[str]))
        self.truth.check_present("a node", present, everybody)
        if not self.truth.drops_events:
            self.truth.check_present(self.name, self.hall.present, everybody)
        told = {user: state for user, state in self.truth.present.items() if state != "online"}
        assert not told or self.truth.nodes_end or self.truth.kicked, f"functions of on_presence were told last: {told}"
        unheard = {f"{number}.0" for number in self.truth.last_words} - self.lobby_heard.texts
        assert not unheard or self.truth.drops_events, f"{self.name} has not heard the last words {unheard}"
        await asyncio.sleep(20.0)

    async def until_answered(self, ask: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        while True:
            try:
                return await ask()
            except WsrpcError as exc:
                self.sim.note(f"asks again after {exc!r}")
                await asyncio.sleep(1.0)

    async def pause(self) -> None:
        if self.sim.random.random() < 0.1:
            await asyncio.sleep(self.sim.random.random())

    # ------------------------------------------------------------ actions

    async def request(self) -> None:
        random = self.sim.random
        event, args = random.choice([("now", ()), ("later", (random.choice([0.0, 1.0, 10.0]),))])
        timeout = random.choice([None, None, 0.5, 20.0])
        number, call = self.truth.call(event)
        async with asyncio.timeout(random.choice([None, None, 0.3])):
            asking = self.client.request(event, number, *args, timeout=timeout, metadata={"number": str(number)})
            assert await told(call, asking) == number

    async def many_requests(self) -> None:
        """More than may run at once, some of which are cancelled."""

        async def ask(seconds: float) -> None:
            number, call = self.truth.call("one of many requests")
            async with asyncio.timeout(seconds):
                await told(call, self.client.request("later", number, 0.2))

        patience = [self.sim.random.choice([0.1, 0.25, 0.5, 60.0]) for _ in range(12)]
        for outcome in await asyncio.gather(*map(ask, patience), return_exceptions=True):
            if outcome is not None and not isinstance(outcome, TimeoutError):
                raise outcome

    async def large_request(self) -> None:
        number, call = self.truth.call("large request")
        filling = "x" * self.sim.random.choice([3_000, 100_000, 700_000])
        assert await told(call, self.client.request("later", number, 0.1, filling)) == number

    async def failing_request(self) -> None:
        number, call = self.truth.call("failing request")
        try:
            how = self.sim.random.choice(["is cancelled", "raises"])
            await told(call, self.client.request("fails", number, how))
        except RemoteError as exc:
            self.sim.note(f"is told {exc!r}")

    def size(self) -> tuple[int, int]:
        return self.sim.random.choice([(3, 10), (50, 10), (40, 3000), (6, 200_000)])

    async def stream(self) -> None:
        number, call = self.truth.call("stream")
        most, size = self.size()
        items = self.client.stream("items", number, most, size, self.sim.random.choice([0.0, 0.5]), returns=list[Any])
        await told(call, read_items(items, most, self.pause))

    async def upload(self) -> None:
        number, call = self.truth.call("upload")
        (most, size), fails = self.size(), self.sim.random.random() < 0.2
        error = self.sim.random.choice([LookupError("no more"), ConnectionLost(1006, "of another one", "not_sent")])

        async def items() -> AsyncIterator[list[Any]]:
            for each in range(most):
                if fails and each == most - 1:
                    raise error
                yield [each, "x" * size]
                await self.pause()

        try:
            assert await told(call, self.client.request("take", number, send=items(), timeout=None)) == most
        except (LookupError, ConnectionLost) as exc:
            if exc is not error:
                raise

    async def conversation(self) -> None:
        number, call = self.truth.call("conversation")
        heard: list[int] = []
        self.truth.talks[number] = heard
        channel = await told(call, self.client.open_channel("talk", number))
        count = self.sim.random.randint(1, 10)
        for each in range(1, count + 1):
            await channel.emit("say", each)
            await self.pause()
        channel.close()
        losses = self.truth.losses[self.life]
        await asyncio.sleep(60.0)
        is_lossy = losses != self.truth.losses[self.life] or self.truth.drops_events or not self.truth.is_mild
        assert len(heard) == count or is_lossy, f"{len(heard)} of {count} events of a conversation have arrived"

    async def note(self) -> None:
        for _ in range(self.sim.random.randint(1, 5)):
            self.noted += 1
            try:
                await self.client.emit("note", self.life, self.noted)
            except WsrpcError:
                self.truth.losses[self.life] += 1  # this one may be missing
                raise

    async def say(self) -> None:
        random = self.sim.random
        count, size = random.choice([(1, 1), (1, 1), (5, 100), (20, 30_000)])
        skipped = random.choice(["", "", "", self.life, "staff"])
        try:
            await self.say_in(random.choice(["lobby", "news"]), count, size, skipped)
        except RemoteError as exc:
            self.sim.note(f"is told {exc!r}")

    async def say_in(self, room: str, count: int = 1, size: int = 1, skipped: str = "") -> int:
        number, call = self.truth.call("say")
        await told(call, self.client.request("say", number, room, count, "x" * size, skipped))
        return number

    async def ask_back(self) -> None:
        number, call = self.truth.call("ask back")
        size = self.sim.random.choice([0, 0, 100_000, 250_000])
        await told(call, self.client.request("ask back", number, size))

    async def ask_other(self) -> None:
        number, call = self.truth.call("ask other")
        other = f"client-{self.sim.random.randrange(CLIENTS)}"
        await told(call, self.client.request("ask other", number, other))

    async def charge(self) -> None:
        random = self.sim.random
        key = f"{self.name}-{random.randrange(3)}"
        retry: Any = random.choice([{}, {"retry": Retry(), "idempotent": True}])
        try:
            receipt = await self.client.request("charge", 5.0, key=key, **retry)
            assert receipt == f"receipt {key}"
        except RunLost:
            self.truth.keyed_runs[f"charge {key}"].append("lost")
            raise

    async def watch(self) -> None:
        random, truth = self.sim.random, self.truth
        key = f"{random.randrange(2)}"
        place = (self.name, key)
        position, run, last = truth.positions.get(place, (None, None, 0))
        stream = self.client.stream("watch", 12, 0.5, key=key, after=position, returns=list[Any])
        try:
            async with stream:
                async for number, each in stream:
                    assert run in (None, number) and each == last + 1, f"item {each} of run {number} after {last}"
                    run, last = number, each
                    truth.positions[place] = stream.position, run, last
                    if random.random() < 0.05:
                        if random.random() < 0.5:
                            await self.stop(stream, f"{self.name} {key}")
                        return
            assert last == 12, f"the run of {key} ends after {last} items"
        except RunLost:
            truth.keyed_runs[f"watch {self.name} {key}"].append("lost")
            raise
        except RemoteError as exc:
            if exc.message != "the handler was stopped":
                raise

    async def stop(self, stream: Any, key: str) -> None:
        """A run that was stopped does not run on."""
        await stream.stop()
        await asyncio.sleep(20.0)
        assert not self.truth.running[key] or self.truth.nodes_end, f"{key} was stopped, and runs on"

    async def kick(self) -> None:
        if not self.truth.is_mild:  # calls in flight fail
            await self.client.emit("kick")


ACTIONS: list[Callable[[User], Coroutine[Any, Any, None]]] = [
    *[User.request] * 3,
    User.many_requests,
    User.large_request,
    User.kick,
    User.failing_request,
    *[User.stream] * 2,
    *[User.upload] * 2,
    User.conversation,
    *[User.note] * 2,
    *[User.say] * 2,
    User.ask_back,
    User.ask_other,
    *[User.charge] * 2,
    *[User.watch] * 2,
]
