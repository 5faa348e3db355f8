"""What the clients of the simulated world do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import suppress
from functools import partial
from math import inf
from typing import Any

from calls import CALLS, Caller, serve
from nodes import KEPT, RINGING
from truth import UNNOTICED, Call, Hearing, Truth, check_counts

from wsrpc import (
    Client,
    CloseInfo,
    ConnectionLost,
    Context,
    Overloaded,
    Peer,
    Reconnect,
    Retry,
    RunLost,
    is_transient,
)
from wsrpc.cluster._nodes.directory import NODE_TIMEOUT
from wsrpc.errors import QueueFull, RemoteError, RequestTimeout, WsrpcError
from wsrpc.testing import Simulation

__all__ = ["CLIENTS", "User"]

URL = "ws://service:80/?who="
CLIENTS, STEPS, KEYS = 3, 12, 6
PERSISTENT = Reconnect(retry=lambda error: is_transient(error, connected=True))
EARLY = "The session was new."


class User(Caller):
    """One life of a client."""

    def __init__(self, sim: Simulation, truth: Truth) -> None:
        super().__init__(sim, truth)
        self.life = sim.here
        self.name = self.life.partition(" ")[0]
        self.lobby_heard, self.news_heard = (Hearing(self.life, room, truth) for room in ("lobby", "news"))
        truth.hearings += [self.lobby_heard, self.news_heard]
        self.noted = 0
        self.sent_bytes = self.left_bytes = 0
        """Bytes of the notes that other clients have sent on the same way, and of those who have gone since."""
        self.emits = False
        """Whether it has emitted events, stopped a run or asked something in a conversation. These take the places of
        requests where few may wait: their sender delays only requests that are not on an anonymous channel."""
        self.closed_at = -60.0
        """When the last session ended."""
        self.session_since = sim.now
        self.ended_early = False
        """Whether the last session ended before the client knew it."""
        self.attached = inf
        """When the last connection has become one of the session."""
        self.dropped_at = self.dropped_early = 0.0
        """When the last connection was lost."""
        self.client = self.target = self.new_client(self.name, Reconnect(retry=self.may_dial))
        serve(self.client, truth)
        sim.always(lambda: check_counts(self.client.peer))
        self.lobby, self.hall = self.client.room("lobby"), self.client.room("hall")
        self.feeding = asyncio.Lock()
        self.client.room("news").on_missed(self.news_heard.missed_some)
        self.lobby.on_missed(self.lobby_heard.missed_some)

        @self.client.on("said")
        def said(ctx: Context, text: str) -> None:
            (self.lobby_heard if ctx.room == "lobby" else self.news_heard).hear(ctx, text)

        @self.client.on("welcome")
        def welcome() -> None:
            # The process of the node may be about to learn where the log ends.
            self.news_heard.since = self.news_heard.since or sim.now + 0.2

        @self.client.on("ring", keep=KEPT)
        async def ring(ctx: Context, key: str) -> str:
            truth.rings[f"{self.life} {key}"] += 1
            await asyncio.sleep(0.2)
            return f"rung {key}"

        @self.client.on("obey", keep=KEPT, ordered=True)
        async def obey(sender: str, number: int) -> None:
            truth.commands[f"{sender} to {self.life}"].append(number)

        @self.client.on_reconnect
        def back(info: Any) -> None:
            began = sim.now - info.downtime
            # Connections that do not last, and sessions that end, count as failures.
            may_be = self.attached > began - 2.0 or self.closed_at > began - 60.0
            one_is_off = ["power"] if info.resumed and not truth.between else []
            may_be = may_be or not truth.is_well(self.name, since=began + 0.001, despite=one_is_off)
            assert info.downtime < 8.0 or may_be, f"{self.life} was away for {info.downtime:g} s, for no reason"
            self.attached = sim.now
            sim.note("is back" if info.resumed else "has another session")
            if not info.resumed:
                # A node that does nothing, and that the others have given up, tells nobody of its kicks.
                is_heard = truth.hears_others(truth.at[self.name], sim.now - NODE_TIMEOUT)
                truth.sessions[self.name] += [sim.now] if info.attempts == 1 and info.lost and is_heard else []
                truth.loses(self.life, info, may_be=self.ended_early)
                self.session_since = sim.now
                self.news_heard.missed()

        @self.client.on_detach
        def dropped(info: CloseInfo) -> None:
            self.dropped_at = sim.now
            self.dropped_early = sim.now if self.is_new else self.dropped_early
            truth.check_drop(self.name, info)

        @self.client.on("close")
        def closed(peer: Peer, info: CloseInfo) -> None:
            truth.told_kicks.add(info.reason)
            self.ended_early = (info.code in (1001, 1006) or "ping" in info.reason) and self.is_new
            self.closed_at = sim.now
            assert info.code not in (1009, 4400, 4408), f"{self.life} has lost its session, for no reason: {info}"

    @property
    def is_new(self) -> bool:
        """Whether the first answer of the node may not have arrived."""
        began = self.session_since
        is_lost = any(began < when < began + 2.0 for when in self.truth.forgotten) and self.attached < began + 1.0
        return self.sim.now < began + 5.0 or is_lost

    @property
    def tells_of_before(self) -> bool:
        """Whether the server may answer what was sent on the first connection of the session, which is lost."""
        is_soon = self.sim.now < self.attached + 1.0 or self.truth.may_be_late
        return self.dropped_early > self.session_since and is_soon

    async def told(self, call: Call, asking: Coroutine[Any, Any, Any], timeout: float | None = None) -> Any:
        try:
            return await super().told(call, asking, timeout)
        except Overloaded as exc:  # of several calls, the others may take long to end
            if self.is_new or self.tells_of_before:
                exc.add_note(EARLY)
            raise

    def new_client(self, who: str, reconnect: Reconnect = PERSISTENT) -> Client:
        return Client(URL + who, proxy=None, limits=self.truth.of_clients, reconnect=reconnect)

    def may_dial(self, error: BaseException) -> bool:
        """What `Reconnect` does by itself. But a dial that was given up may arrive late, and take the address."""
        is_late = not self.truth.kinds.isdisjoint({"pause", "power", "cut", "isolate", "slow"})
        is_replaced = isinstance(error, ConnectionLost) and error.code == 4410
        return is_transient(error, connected=self.attached < inf) or (is_late and is_replaced)

    async def live(self) -> None:
        self.truth.finished.discard(self.name)
        self.truth.lives[self.name] = self.life
        draw = self.sim.random_of("actions")  # the same few for all clients, so that they meet
        actions = draw.sample(ACTIONS, draw.choice([2, 3, 5, len(ACTIONS)]))
        actions += [User.visit, User.large_request] * self.truth.is_slow
        async with self.client:
            self.attached = self.sim.now
            if self.attached > self.session_since + 0.5:  # attempts have failed
                self.closed_at = self.session_since = self.attached
            async with asyncio.TaskGroup() as group:
                group.create_task(self.join())
                async for _ in self.sim.steps(STEPS):
                    action = self.sim.random.choice(actions)
                    self.sim.note(action.__name__.replace("_", " "))
                    group.create_task(self.act(action))
                    most = self.sim.random.choice([0.0, 0.0, 0.1, 1.0, 5.0, 20.0])
                    await asyncio.sleep(most * self.sim.random.random())
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
        await self.until_answered(partial(self.join_soon, self.client))
        self.lobby_heard.since = self.sim.now

    async def join_soon(self, client: Client, after: str | None = None) -> None:
        """Join the lobby: in each session, the store has ten seconds for each of two steps."""
        began, truth = [self.sim.now], self.truth

        @client.on_reconnect
        def back(info: Any) -> None:
            # While the broker is away, a session does not go on at another node: the client asks again in the next one.
            if not info.resumed:
                began.append(self.sim.now)

        try:
            await client.room("lobby").join(after=after)
        finally:
            is_well = truth.is_well(self.name, since=began[0] - 20.0) and not truth.is_narrow
            assert self.sim.now < began[-1] + 25.0 or not is_well, f"{self.life} waits for a room, for no reason"

    async def act(self, action: Callable[[User], Coroutine[Any, Any, None]]) -> None:
        name, now = action.__name__.replace("_", " "), self.sim.now
        faults = [fault.when for fault in self.sim.faults if now < fault.when < now + 10.0]
        if faults and self.sim.random.random() < 0.3:  # many mistakes need both at the same time
            await asyncio.sleep(max(0.0, min(faults) - now - self.sim.random.uniform(-0.02, 0.2)))
        talks = Caller.conversation, Caller.short_talk
        self.emits = self.emits or action in (User.note, *talks, User.feed, User.kick_other, User.watch)
        was_new, began = self.is_new, self.sim.now
        try:
            await action(self)
        except WsrpcError as exc:
            # Expired credentials end no session. A node that begins to end meanwhile does, and so does a kick.
            is_well = self.truth.is_well(self.name, "broker", since=self.sim.now - 40.0, despite={"stop"})
            is_well = is_well and not -2.0 < self.dropped_at - self.truth.draining_since < 1.0
            kicks = self.truth.kicked.values()
            is_well = is_well and not any(user == self.name and when > self.dropped_at - 5.0 for user, when, _ in kicks)
            is_expired = getattr(exc, "code", 0) == 4411 and is_well and "clock" not in self.truth.kinds
            was_new |= self.tells_of_before or EARLY in getattr(exc, "__notes__", ())
            is_full = isinstance(exc, Overloaded) and self.truth.drops_events and (self.emits or was_new or self.is_new)
            is_full |= isinstance(exc, QueueFull) or ("Limits.unread_bytes" in str(exc) and self.truth.is_tight)
            is_late = isinstance(exc, RequestTimeout) and self.truth.may_be_late
            # The first message of the session has got lost, or is very late.
            is_unanswered = "knows keys" in str(exc) and self.sim.now > self.session_since + 9.0
            is_early = isinstance(exc, ConnectionLost) and self.is_new
            is_refused = "wait already" in str(exc) and not is_full  # although it has kept to the limits
            may_be = is_full or is_late or is_unanswered or is_early or not self.truth.must_go_on
            self.sim.note(f"{name} ends: {exc!r}")
            rule = "expired credentials end no session" if is_expired else ""
            # What begins before a drain ends in it, if it takes less time.
            is_cut = action is Caller.short_talk and isinstance(exc, ConnectionLost) and self.was_drained(began)
            rule = rule or ("its node has drained" if is_cut else "")
            rule = rule or ("it has kept to the limits" if is_refused else "")
            rule = rule or ("" if may_be else "nothing has lasted long enough for that")
            if rule:
                raise AssertionError(f"{name} of {self.life} ends with {exc!r}, although {rule}") from exc
        assert self.sim.now < began + 220.0, f"{name} takes {self.sim.now - began:g} s"

    def was_drained(self, since: float) -> bool:
        """Whether nothing has gone wrong but that a node has ended in an orderly way."""
        truth = self.truth
        is_well = truth.is_well(self.name, "broker", "store", since=since - 30.0, despite={"stop", "clock"})
        is_well = is_well and self.sim.is_well("broker", "store", since=since - 30.0)
        kicked = any(user == self.name and when > since - 30.0 for user, when, _ in truth.kicked.values())
        return is_well and not (truth.expires or truth.between or truth.may_be_late or kicked or self.is_new)

    async def finish(self) -> None:
        """In the end, everybody is connected, hears everything, and is there."""
        # Heartbeats notice within 40 s. Credentials expire within 20 s.
        await asyncio.sleep(22.0 if self.truth.is_loud else max(50.0, self.truth.strict_until - self.sim.now + 50.0))
        assert self.client.connected, f"{self.name} is {self.client.state}"
        self.truth.last_words.append(await self.until_answered(partial(self.say_in, "lobby")))
        self.lobby_heard.until = self.news_heard.until = self.sim.now
        await self.until_answered(partial(self.visit, "joins"))
        everybody = sorted(f"client-{each}" for each in range(CLIENTS))
        present = await self.until_answered(partial(self.client.request, "who", returns=list[str]))
        self.truth.check_present("a node", present, everybody)
        if not self.truth.drops_events:
            self.truth.check_present(self.name, self.hall.present, everybody)
        expected = {user: "offline" if user.startswith("guest") else "online" for user in self.truth.present}
        state_of, ending = self.truth.present, self.truth.leaving
        told = {user: state for user, state in state_of.items() if state != expected[user] and user not in ending}
        assert not told, f"functions of on_presence were told last: {told}"
        unheard = {f"{number}.0" for number in self.truth.last_words} - self.lobby_heard.texts
        assert not unheard or self.truth.drops_events, f"{self.name} has not heard the last words {unheard}"
        await asyncio.gather(*map(self.charge_finally, range(KEYS)))
        await asyncio.sleep(10.0)
        self.truth.check_ends()
        ending.add(self.name)

    async def charge_finally(self, number: int) -> None:
        with suppress(RunLost):
            await self.until_answered(partial(self.charge_with, number))

    async def until_answered(self, ask: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        while True:
            try:
                return await ask()
            except RunLost:
                raise
            except WsrpcError as exc:
                what = [getattr(ask, "func", ask).__name__, *getattr(ask, "args", ())]
                name = " ".join(str(each) for each in what if isinstance(each, (str, int))).replace("_", " ")
                self.sim.note(f"asks again ({name}) after {exc!r}")
                await asyncio.sleep(1.0)

    # ------------------------------------------------------------ actions

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
        await self.told(call, self.client.request("say", number, room, count, "x" * size, skipped))
        return number

    async def ask_back(self) -> None:
        """Let the node call, this client or another one."""
        number, call = self.truth.call("ask back")
        address = self.sim.random.choice(["", self.any_client()])
        what = self.sim.random.choice([*CALLS, "request", "request"])
        await self.told(call, self.client.request("ask back", number, what, address, timeout=None))

    def any_client(self) -> str:
        return f"client-{self.sim.random.randrange(CLIENTS)}"

    async def ask_other(self) -> None:
        number, call = self.truth.call("ask other")
        other = self.any_client()
        await self.told(call, self.client.request("ask other", number, other))

    async def charge(self) -> None:
        random = self.sim.random
        await self.charge_with(random.randrange(KEYS), **random.choice([{}, {"retry": Retry(), "idempotent": True}]))

    async def charge_with(self, number: int, **options: Any) -> None:
        truth, key, began = self.truth, f"{self.name}-{number}", self.sim.now
        name, seconds = f"charge {key}", [1.0, 5.0, 12.0][number % 3]
        truth.asked.setdefault(key, began)
        was_full = self.client.peer.stats().slow  # so it waits until what was sent before has left
        truth.charging[key] += 1
        try:
            receipt = await self.client.request("charge", seconds, key=key, timeout=None, **options)
            assert receipt == f"receipt {key}"
            truth.charging[key] = 0
        except RunLost:
            # Perhaps a node has ended between its claim to the key and the beginning of the handler.
            may_be = truth.started > truth.asked[key] or not truth.is_well(self.name, "store", since=began - 20.0)
            # Perhaps the store has forgotten that a node has withdrawn its claim.
            forgets = truth.kinds - {"restored store"}
            may_be = may_be or not self.sim.is_well("store", since=truth.asked[key], despite=forgets)
            truth.loses_run(name, may_be)
            raise
        except Overloaded as exc:
            asked = max(began, self.session_since)  # who was kicked waits for the next session
            is_late = self.sim.now > asked + 13.0 and not options and truth.is_well(self.name, since=began - 3.0)
            # Perhaps it has joined the run of another call, which is withdrawn because the store has answered too late.
            # It waits until the store knows that, also if the other caller has its error, or has lost its connection.
            if is_late and not (truth.is_narrow or was_full or truth.charging[key] > 1):
                raise AssertionError(f"the store has kept {key} waiting") from exc
            raise
        except RemoteError as exc:
            if not (truth.is_odd and "too big to be kept" in exc.message):
                raise
            return  # an odd store was full, it said, as the run ended: this is the answer, and is kept
        is_quick = not (options or truth.is_narrow or truth.is_tight)  # it does not wait for large uploads, either
        has_waited = is_quick and truth.keyed_began[name] > max(began, self.session_since) + 13.0
        assert not has_waited or not truth.is_well(self.name, since=began - 20.0), f"the store has kept {key} waiting"

    async def watch(self) -> None:
        random, truth = self.sim.random, self.truth
        key = f"{random.randrange(2)}"
        place = (self.name, key)
        position, run, last = truth.positions.get(place, (None, None, 0))
        most = 12 if key == "0" else 50
        stream = self.client.stream("watch", most, 0.5, key=key, after=position, returns=list[Any])
        try:
            async with stream:
                try:
                    async for number, each in stream:
                        assert run in (None, number) and each == last + 1, f"item {each} of run {number} after {last}"
                        run, last = number, each
                        truth.positions[place] = stream.position, run, last
                        if random.random() < 0.1:
                            if random.random() < 0.7:
                                await self.stop(stream, f"{self.name} {key}")
                            return
                except ConnectionLost:
                    await self.stop(stream, f"{self.name} {key}")
                    raise
            assert last == most, f"the run of {key} ends after {last} items"
        except RunLost:
            truth.keyed_runs[f"watch {self.name} {key}"].append("lost")
            raise
        except RemoteError as exc:
            if exc.message != "the handler was stopped":
                raise

    async def stop(self, stream: Any, key: str) -> None:
        """A run that was stopped does not run on."""
        self.sim.note(f"stops the run of {key}")
        await stream.stop()
        began = self.sim.now
        await asyncio.sleep(20.0)
        worked = self.truth.worked.get(key, 0.0)
        runs_on = worked > began + 8.0 and self.truth.is_well(since=began)
        assert not runs_on, f"the run of {key} was stopped, and goes on"

    async def kick_other(self) -> None:
        if not self.truth.is_mild:  # calls in flight fail
            await self.client.emit("kick other")

    async def ring_other(self) -> None:
        number, call = self.truth.call("ring other")
        patient = self.sim.random.random() < 0.5
        await self.told(call, self.client.request("ring other", number, self.any_client(), patient, timeout=None))

    async def command_other(self) -> None:
        number, call = self.truth.call("commands")
        address, count = self.any_client(), self.sim.random.choice([3, 10, 30])
        await self.told(call, self.client.request("command other", number, address, count, timeout=None))

    async def feed(self) -> None:
        """Read the items of a named channel twice. The second loop may get first what was sent for the first one."""
        if self.truth.drops_events:  # such as the one that asks for the items
            return
        async with self.feeding:
            for _ in range(2):
                run, last, most = 0, 0, self.sim.random.randint(1, 50)
                async with self.client.of("feed").items(returns=tuple[int, int]) as items:
                    async for number, each in items:
                        if not run and each > 1:
                            continue
                        assert run in (0, number) and each == last + 1, f"{run, last}, and then {number, each}"
                        run, last = number, each
                        if last == most:
                            break

    async def race(self) -> None:
        """More calls than may run and wait at once. Each ends one that is not sent when it is answered."""
        limits, calls = self.truth.of_nodes, list[asyncio.Task[None]]()
        places = min(6, limits.running + limits.waiting)

        async def ask(each: int) -> None:
            number, call = self.truth.call("one of a race")
            await self.told(call, self.client.request("later", number, 0.1 + 0.01 * each, timeout=None))
            if each + places < len(calls):
                calls[each + places].cancel()

        calls += [asyncio.create_task(ask(each)) for each in range(3 * places)]
        for outcome in await asyncio.gather(*calls, return_exceptions=True):
            if isinstance(outcome, Exception):
                raise outcome

    async def many_uploads(self) -> None:
        """Uploads of large items to slow handlers."""
        size = 200_000 if self.truth.is_tight else 20_000

        async def items() -> AsyncIterator[list[Any]]:
            for each in range(4):
                yield [each, "x" * size]

        async def upload() -> None:
            number, call = self.truth.call("one of many uploads")
            await self.told(call, self.client.request("take", number, 0.5, send=items(), timeout=None))

        for outcome in await asyncio.gather(*(upload() for _ in range(8)), return_exceptions=True):
            if outcome is not None:
                raise outcome

    async def visit(self, what: str = "") -> None:
        """Another client comes, calls and emits at once, and goes."""
        random, sender, began = self.sim.random, f"visit {next(self.truth.numbers)}", self.sim.now
        mine, sent, waiting = 0, self.sent_bytes, self.sent_bytes - self.left_bytes
        guest = self.new_client("guest")
        guest.on("welcome", lambda: None)
        async with guest:
            whats = ["charges", "stores", "joins", "notes"] + ["notes"] * 8 * self.truth.is_slow
            what = what or random.choice(whats)
            if what == "charges":
                assert await guest.request("charge", 0.1, key=sender, timeout=None) == f"receipt {sender}"
            elif what == "stores":
                number, call = self.truth.call("store of a guest")
                data = bytes(min(int(self.truth.largest * 0.9), 300_000))
                assert await self.told(call, guest.request("store", number, data, timeout=None)) == len(data)
            elif what == "joins":
                room = "news" if self.truth.is_far else "lobby"
                heard = Hearing(sender, room, self.truth)

                @guest.on("said")
                def said(ctx: Context, text: str) -> None:
                    if ctx.room == room:
                        heard.hear(ctx, text)

                guest.room(room).on_missed(heard.missed)
                if room == "news":  # the guest is a member, perhaps before its node knows where the log ends
                    await asyncio.sleep(0.3)
                    heard.since = self.sim.now
                if room == "news" or not self.truth.last_words:
                    with suppress(RemoteError):
                        await self.say_in(room, 2)
                if room == "lobby":
                    after, heard.since = random.choice(self.lobby_heard.places or [("", inf)])
                    if not self.truth.last_words and random.random() < 0.5:
                        await self.leave_in_the_middle(guest, heard, after or None)
                    await self.join_soon(guest, after or None)
                heard.until = self.sim.now
                await asyncio.sleep(20.0)
                was_well = partial(self.truth.is_well, self.name, "store")
                if was_well(since=heard.until - 40.0, despite={"restored store"}) and was_well(since=heard.until - 1.0):
                    self.truth.hearings.append(heard)
            else:
                count = random.randint(1, 10)
                for each in range(1, count + 1):
                    size = random.choice([10, 5_000, 200_000])
                    mine, self.sent_bytes = mine + size, self.sent_bytes + size
                    await guest.emit("note", sender, each, "x" * size)
                if self.truth.is_mild and not self.truth.expires:
                    self.truth.sent[sender] = count
        was_well = partial(self.truth.is_well, since=began)
        self.left_bytes += mine
        is_crowded = waiting + self.sent_bytes - sent - mine > 1_000_000  # others are first, perhaps for long
        if is_crowded and not was_well(self.name, despite=self.truth.kinds - {"slow"}):
            self.truth.sent.pop(sender, None)
        is_held = bool(self.truth.between) and not was_well(despite=self.truth.kinds - {"slow"})
        is_lost = self.truth.is_slow and not (was_well(despite={"clock"}) and was_well(self.name, despite=UNNOTICED))
        if is_held or is_lost:
            self.truth.sent.pop(sender, None)  # its connection was lost while it went, or a proxy held much of it

    async def leave_in_the_middle(self, guest: Client, heard: Hearing, after: str | None) -> None:
        """A guest falls behind: many large events come while it reads old ones. It leaves, and hears no more."""
        loud = [asyncio.create_task(self.say_in("lobby", 20, 30_000)) for _ in range(3)]
        try:
            await asyncio.sleep(self.sim.random.choice([0.0, 0.1, 1.0]))
            joining = asyncio.create_task(self.join_soon(guest, after))
            await asyncio.wait((joining,), timeout=self.sim.random.choice([0.01, 0.1, 1.0, 30.0]))
            await guest.room("lobby").leave()
            joining.cancel()
            await asyncio.gather(joining, return_exceptions=True)
            many = len(heard.heard)
            await asyncio.sleep(3.0)
            assert len(heard.heard) == many, f"{heard.name} has left the lobby, and hears {heard.heard[many:]}"
            heard.missed()
        finally:
            await asyncio.gather(*loud, return_exceptions=True)

    async def move(self) -> None:
        """A guest goes, and comes back at once, perhaps at another node."""
        truth, name = self.truth, f"guest-{next(self.truth.numbers)}"
        for pause in (0.1, 20.0):
            guest = self.new_client(name)
            guest.on("welcome", lambda: None)
            async with guest:
                await guest.room("hall").join()
                await asyncio.sleep(pause)
                is_well = truth.is_well(self.name, "broker", since=0.0)
                is_well = is_well and not truth.expires and all(user != name for user, _, _ in truth.kicked.values())
                state = truth.present.get(name)
                assert pause < 1.0 or state == "online" or not is_well, f"{name} is said to be {state}"
            await asyncio.sleep(self.sim.random.choice([0.0, 0.1, 0.4, 1.0, 3.0]))

    async def device(self) -> None:
        """A device comes for a call that waits for it, perhaps after its node has ended. Perhaps the call ends it."""
        truth, random, began = self.truth, self.sim.random, self.sim.now
        number, call = truth.call("ring a device")
        name, fails, rung, ended = f"device-{number}", random.random() < 0.3, list[str](), asyncio.Event()
        until = began + RINGING
        is_well = partial(truth.is_well, self.name, "broker", "store")

        async def ring(key: str) -> str:
            rung.append(key)
            truth.sim.note(f"{name} gets its call{', which ends it' * fails}")
            ended.set()
            if fails:
                await asyncio.Event().wait()
            return f"rung {key}"

        async def come() -> None:
            await asyncio.sleep(1.0)
            has_begun = call.runs > 0
            await asyncio.sleep(1.0)
            is_stored = has_begun and is_well(since=began) and not (truth.is_narrow or truth.is_alone)
            await asyncio.sleep(random.choice([0.0, 5.0, 20.0]))
            while self.sim.now < until and not (rung and (asking.done() or not fails)):
                ended.clear()
                truth.sim.note(f"{name} comes")
                device = self.new_client(name, Reconnect(retry=lambda error: True))
                device.on("welcome", lambda: None)
                device.on("close", ended.set)
                device.on("ring", ring, keep=KEPT)
                async with device:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(until - self.sim.now):
                            await ended.wait()
                        await asyncio.sleep(0.0 if fails else 1.0)
            # A call also ends with an exception of the store that its contract does not have. Its caller is told that.
            is_due = is_stored and call.told not in ("not_sent", "not_run", "ran") and is_well(since=until - 35.0)
            # A call that is handed over five times in vain is given up.
            is_due = is_due and is_well(since=began, despite=truth.kinds - {"break", "flap"})
            assert rung or not is_due, (
                f"{name} has come, and the call that waits for it has not reached it in {RINGING:g} s"
            )
            assert len(rung) <= 15, f"{name} has ended {len(rung)} times"

        ringing = self.told(call, self.client.request("ring other", number, name, True, timeout=None))
        asking = asyncio.create_task(ringing)
        asking.add_done_callback(lambda _: ended.set())
        for outcome in await asyncio.gather(asking, come(), return_exceptions=True):
            if isinstance(outcome, AssertionError):
                raise outcome


ACTIONS: list[Callable[[User], Coroutine[Any, Any, None]]] = [
    *CALLS.values(),
    User.race,
    User.many_uploads,
    User.note,
    User.say,
    User.ask_back,
    User.ask_other,
    User.ring_other,
    User.command_other,
    User.charge,
    User.watch,
    User.kick_other,
    User.feed,
    User.visit,
    User.move,
    User.device,
]
