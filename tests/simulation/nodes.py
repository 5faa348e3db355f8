"""What the nodes of the simulated world serve, beside what both sides serve."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from math import inf
from typing import Any

from calls import CALLS, Caller, serve
from stores import OddStore
from truth import BUSY, DETACHED, NODES, Emission, Truth, check_counts

from wsrpc import CloseInfo, Context, Handshake, Limits, Overloaded, Peer, Quotas, RpcError, Server
from wsrpc.cluster import Cluster
from wsrpc.errors import PeerNotFound, WsrpcError
from wsrpc.store import StoreFull, StoreLost
from wsrpc.testing import Simulation

__all__ = ["KEPT", "RINGING", "STAFF", "node"]

KEPT = 600.0
GRACE = 5.0
RINGING = 120.0
"""Seconds in which a call reaches its peer."""
STAFF = "client-0"
"""The user who does not get what is not for the staff."""


def quota_of(handshake: Handshake) -> str | None:
    """A client that was killed, or has lost its session, comes again while the last one is still counted."""
    who = handshake.query["who"]
    return who if who.startswith("client") else None


async def node(sim: Simulation, truth: Truth, limits: Limits) -> None:
    shared: Any = {} if truth.is_alone else {"store": sim.store(), "cluster": Cluster(sim.engine())}
    if truth.is_odd and shared:
        shared["store"] = OddStore(sim.store(), sim)
    if truth.quota:
        shared["quotas"] = Quotas(by=quota_of, connections=truth.quota)
    server = Server(**shared, detached_timeout=DETACHED, limits=limits)
    serve(server, truth)
    here = sim.here.partition(" ")[0]
    truth.lives[here] = sim.here
    truth.started = sim.now
    cluster: Any = None if truth.is_alone else server.cluster

    def find(address: str, asking: Peer) -> Any:
        if cluster is not None:
            return cluster.peer(address)
        return next((each for each in server.peers if each.principal == address), asking)

    @server.on_handshake
    def log_in(handshake: Handshake) -> None:
        handshake.principal = handshake.query["who"]
        if truth.expires and not truth.finished:
            handshake.expires = time.time() + truth.expires
        if not handshake.query["who"].startswith("guest"):
            handshake.address = handshake.query["who"]

    lobby = server.room("lobby", allow=lambda peer: True, keep=truth.keep)
    hall = server.room("hall", allow=lambda peer: True, presence=GRACE)
    news, staff = server.room("news", keep=truth.keep), server.room("staff")
    truth.halls[here] = sim.here, hall

    @server.on_resume
    def resumed(peer: Peer) -> None:
        truth.resumed[str(peer.principal)], truth.at[str(peer.principal)] = sim.now, here

    @server.on_detach
    def dropped(peer: Peer, info: CloseInfo) -> None:
        user = str(peer.principal)
        if user[0] == "c" and truth.at[user] == here and info.code != 4409:
            truth.check_drop(user, info)

    @server.on_drain
    async def begin_streams() -> None:
        """What begins while the server drains, and does not take as long as it may, ends before the connections do."""

        async def begin(peer: Peer) -> None:
            caller, user, began = Caller(sim, truth, peer), str(peer.principal), sim.now
            try:
                await sim.random.choice([caller.short_stream, caller.short_talk])()
            except WsrpcError as exc:
                well = truth.is_well(user, since=began - 20.0, despite={"stop", "clock"}) and sim.now < began + 4.5
                well = well and truth.resumed[user] < began - 2.0 and not (truth.may_be_late or truth.drops_events)
                if well and getattr(exc, "code", 1000) != 1000 and user[0] == "c" and user not in known_kicks():
                    raise AssertionError(f"a call to {user} that has begun during a drain ends: {exc!r}") from exc

        async with asyncio.TaskGroup() as group:
            for peer in [each for each in server.peers if each.connected]:
                group.create_task(begin(peer))

    def known_kicks() -> set[str]:
        return {user for user, when, _ in truth.kicked.values() if when > sim.now - 60.0}

    @server.on("open")
    def welcome(peer: Peer) -> None:
        truth.opened[peer.id] = sim.now
        truth.served[str(peer.principal)] = peer
        truth.came.setdefault(str(peer.principal), sim.now)
        resumed(peer)
        peer.emit_nowait("welcome")
        news.add(peer)
        if peer.principal == STAFF:
            staff.add(peer)

    @server.on_presence
    def changed(room: object, present: Any) -> None:
        user, since = str(present.user), sim.now - 20.0
        truth.present[user] = present.state
        truth.knowing[user].add(sim.here)
        is_there = user in truth.served and truth.served[user].connected and truth.resumed[user] < since
        # To close a connection whose credentials have expired takes long on a slow path.
        despite = BUSY - {"slow"} if truth.expires else BUSY
        is_well = truth.hears_others(here, since) and truth.is_well(user, since=since, despite=despite)
        # A node that was paused reads that another one has ended before it reads where its users are now.
        is_well = is_well and not (truth.nodes_end and not sim.is_well(here, since=since))
        untrue = is_there and is_well and present.state != "online" and not truth.last_words and user[0] == "c"
        assert not untrue, f"{user} is said to be {present.state}"

    @server.on("say")
    async def say(number: int, room: str, count: int, filling: str, skipped: str, peer: Peer) -> int:
        truth.begins(number)
        where = {"lobby": lobby, "news": news}[room]
        skip: Any = {"": None, "staff": staff}.get(skipped, peer)
        texts = [f"{number}.{each} {filling}" for each in range(count)]
        for hearing in truth.hearings:
            if hearing.name == skipped or (skipped == "staff" and hearing.name.startswith(STAFF)):
                hearing.skipped.update(texts)

        async def emit(text: str) -> None:
            began, name = sim.now, text.partition(" x")[0]
            try:
                await where.emit("said", text, skip=skip)
            except Overloaded as exc:
                if exc.outcome in ("not_sent", "not_run"):
                    truth.unsaid.add(name)
                raise
            truth.emitted[name] = Emission(room, began, len(text))

        try:
            await asyncio.gather(*map(emit, texts))
        except (Overloaded, StoreLost, StoreFull) as exc:
            raise RpcError(f"perhaps not said: {exc}") from None
        return number

    @server.on("who")
    def who() -> list[str]:
        assert not server.stats().detached_peers, f"{here} has sessions without a connection"
        return sorted(map(str, hall.present()))

    @server.of("feed").on("start")
    async def feed() -> AsyncIterator[tuple[int, int]]:
        number = next(truth.numbers)
        for each in range(1, 1000):
            yield number, each
            await asyncio.sleep(sim.random.choice([0.0, 0.0, 0.1]))

    @server.on("charge", keep=KEPT)
    async def charge(ctx: Context, seconds: float) -> str:
        truth.keyed_runs[f"charge {ctx.key}"].append("run")
        truth.keyed_began.setdefault(f"charge {ctx.key}", sim.now)
        await asyncio.sleep(seconds)
        return f"receipt {ctx.key}"

    @server.on("watch", keep=KEPT)
    async def watch(ctx: Context, most: int, seconds: float) -> AsyncIterator[list[Any]]:
        runs = truth.keyed_runs[f"watch {ctx.peer.principal} {ctx.key}"]
        runs.append("run")
        run = runs.count("run")
        for each in range(1, most + 1):
            yield [run, each]
            await asyncio.sleep(seconds)
            truth.worked[f"{ctx.peer.principal} {ctx.key}"] = sim.now

    @server.on("left")
    async def left(number: int, began: float, peer: Peer) -> None:
        """Its caller has given up a conversation before, in the same session."""
        await asyncio.sleep(0.5)
        is_over = truth.talks[number] or not truth.calls[number].runs or truth.opened[peer.id] > began
        assert is_over, f"the handler of conversation {number} runs on"

    @server.on("ask back")
    async def ask_back(number: int, what: str, address: str, peer: Peer) -> int:
        truth.begins(number)
        with suppress(WsrpcError):
            await CALLS[what](Caller(sim, truth, find(address, peer) if address else peer))
        return number

    @server.on("ask other")
    async def ask_other(number: int, address: str, peer: Peer) -> int:
        """Events to a client of any node arrive in order, and do not overtake requests."""
        truth.begins(number)
        sender = f"{truth.calls[number].name} to {address}"
        other = find(address, peer)
        asking = list[asyncio.Task[int]]()
        most, filling = sim.random.choice([(7, ""), (7, ""), (21, "x" * 30_000)])
        try:
            for each in range(1, most, 2):
                asking.append(asyncio.create_task(other.request("mark", sender, each)))
                asking[-1].add_done_callback(lambda task: task.cancelled() or task.exception())
                await asyncio.sleep(0)
                await other.emit("note", sender, each + 1, filling)
        except PeerNotFound:
            # A client that does nothing from the beginning has never come.
            is_well = sim.now > truth.came.get(address, inf) + 10.0 and not (truth.kicked or address in truth.finished)
            is_well = is_well and truth.hears_others(here, sim.now - 20.0)
            is_well = is_well and truth.is_well(address, since=sim.now - 40.0, despite=BUSY)
            is_well = is_well and sim.is_well(*truth.between, since=sim.now - 40.0)  # else it could not connect
            assert not is_well, f"{here} does not find {address}, for no reason"
            truth.losses[sender] += 1
        except WsrpcError:
            truth.losses[sender] += 1
        for outcome in await asyncio.gather(*asking, return_exceptions=True):
            truth.losses[sender] += isinstance(outcome, WsrpcError)
        return number

    @server.on("ring other")
    async def ring_other(number: int, address: str, patient: bool) -> int:
        truth.begins(number)
        if cluster is None:
            return number
        key, began = f"{sim.random.randrange(20)} {address}", sim.now
        timeout = None if patient else 5.0
        with suppress(WsrpcError, TimeoutError):
            ringing = cluster.peer(address).request("ring", key, key=key, timeout=timeout, deliver_within=RINGING)
            assert await ringing == f"rung {key}"
        is_well = truth.is_well(address, "broker", "store", since=sim.now - 50.0)
        has_waited = patient and sim.now > began + 50.0 and address[0] == "c"  # a device may not come
        assert not has_waited or not is_well or truth.is_narrow, f"{address} does not answer {key!r}, for no reason"
        return number

    @server.on("command other")
    async def command_other(number: int, address: str, count: int) -> int:
        """Commands to a client wait for it in their order, through moves and ends of its nodes."""
        truth.begins(number)
        if cluster is None:
            return number
        with suppress(WsrpcError):
            for each in range(count):
                sender = truth.calls[number].name
                command = sender, each
                await cluster.peer(address).submit("obey", *command, key=f"{command}", deliver_within=RINGING)
                await asyncio.sleep(sim.random.choice([0.0, 0.0, 0.3, 2.0]))
        return number

    @server.on("kick other")
    async def kick_other() -> None:
        """Close the connection of somebody at this node, who knows of its session."""
        often = {user for user, count in Counter(user for user, _, _ in truth.kicked.values()).items() if count > 1}
        old = [each for each in server.peers if truth.opened[each.id] < sim.now - 5.0]
        known = [each for each in old if each in hall or str(each.principal)[0] != "c"]
        found = [each for each in known if each.id not in truth.kicked and str(each.principal) not in often]
        if found:
            peer = sim.random.choice(found)
            # A session that its client has given up ends without a word.
            when = sim.now if truth.served[str(peer.principal)] is peer else -inf
            kicked = truth.kicked.setdefault(peer.id, (str(peer.principal), when, f"kick {len(truth.kicked)}"))
            sim.note(f"closes the connection of {peer.principal}: {kicked[2]}")
            await peer.close(4001, kicked[2])

    async def call() -> None:
        """Call the staff, while the engine may be away, and those who are away. What they do not get takes no room."""
        while True:
            await asyncio.sleep(0.5)
            report = await staff.emit("called")  # it is not kept, so this needs no store
            is_well = truth.is_well(STAFF, "broker", since=sim.now - 20.0)
            assert not report.missing_nodes or not is_well, f"{report.missing_nodes} miss an event, for no reason"
            for peer in [each for each in server.peers if each.detached]:
                calls = (peer.request("called", "x" * min(300_000, truth.largest), timeout=0.5) for _ in range(5))
                await asyncio.gather(*calls, return_exceptions=True)
                [told] = await asyncio.gather(asyncio.wait_for(peer.emit("called"), 0.2), return_exceptions=True)
                is_full = not peer.detached or peer.stats().kept_bytes >= limits.replay_bytes
                assert is_full or not isinstance(told, TimeoutError), (
                    f"an event for {peer.principal} waits, for no reason"
                )

    known_nodes = set[str]()

    def others_are_known() -> None:
        """A process that goes on after a pause still knows the others that it knew before."""
        nodes = set(cluster.nodes)
        if not sim.is_well(here, since=sim.now) or truth.node_names[here] != cluster.nodes[:1]:
            return
        missing = [name for name in NODES if known_nodes.intersection(truth.node_names[name]) - nodes]
        assert not missing or not truth.hears_others(here, sim.now - 20.0), f"{here} has given up {missing}"
        known_nodes.clear()
        known_nodes.update(nodes)

    sim.always(lambda: list(map(check_counts, server.peers)))
    async with server.listen(port=80):
        if cluster is not None:
            truth.node_names[here] = cluster.nodes[:1]
            sim.always(lambda: None if truth.last_words else others_are_known())
        try:
            await (call() if truth.is_far else asyncio.Event().wait())
        finally:
            began = truth.draining_since = sim.now
            patience = sim.random.choice([5, 20])
            await server.close(drain_timeout=patience)
            truth.halls.pop(here, None)
            is_slow = not truth.kinds.isdisjoint({"slow", "pause"})
            latest = began + patience + 2 * limits.close_timeout + 0.5  # connections, handlers, the last of presence
            assert sim.now < latest or is_slow, f"to close the server takes {sim.now - began:g} s"
