"""What the nodes of the simulated world serve, and what both sides serve."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import suppress
from typing import Any

from truth import DETACHED, NODES, Call, Emission, Truth

from wsrpc import AnonymousChannel, Context, Handshake, Limits, Overloaded, Peer, RpcError, Server
from wsrpc._core.api.registration import Registrar
from wsrpc.cluster import Cluster
from wsrpc.errors import PeerNotFound, WsrpcError
from wsrpc.testing import Simulation

__all__ = ["STAFF", "node", "read_items", "serve", "told"]

KEPT = 600.0
GRACE = 5.0
STAFF = "client-0"
"""The user who does not get what is not for the staff."""


async def told(call: Call, asking: Coroutine[Any, Any, Any]) -> Any:
    """Note what the caller of a call is told."""
    try:
        result = await asking
    except (WsrpcError, TimeoutError) as exc:
        call.told = getattr(exc, "outcome", "unknown")
        raise
    call.told = "answered"
    return result


def serve(side: Registrar, truth: Truth) -> None:
    """Register what both sides serve."""

    @side.on("now")
    def now(ctx: Context, number: int) -> int:
        truth.begins(number)
        assert ctx.metadata == {"number": str(number)}, f"request {number} has the metadata {ctx.metadata}"
        return number

    @side.on("later")
    async def later(number: int, seconds: float, filling: str = "") -> int:
        truth.begins(number)
        await asyncio.sleep(seconds)
        return number

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
        truth.begins(number)
        for each in range(most):
            yield [each, "x" * size]
            if each % 4 == 3:
                await asyncio.sleep(seconds)

    @side.on("take")
    async def take(number: int, pause: float, items: AsyncIterator[list[Any]]) -> int:
        truth.begins(number)
        expected = 0
        async for each, filling in items:
            assert each == expected, f"item {each} of upload {number}, and not {expected}"
            expected += 1
            await asyncio.sleep(pause)
            truth.unread[number] -= len(filling)
        return expected

    @side.on("store")
    async def store(number: int, data: bytes) -> int:
        truth.begins(number)
        return len(data)

    @side.on("talk")
    async def talk(number: int, channel: AnonymousChannel) -> None:
        truth.begins(number)
        heard = truth.talks[number]
        try:
            async for text in channel.events("say"):
                assert text == len(heard) + 1, f"event {text} of conversation {number}, and not {len(heard) + 1}"
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


async def read_items(stream: Any, most: int, pause: Callable[[], Coroutine[Any, Any, None]]) -> None:
    expected = 0
    async with stream:
        async for each, _ in stream:
            assert each == expected, f"item {each}, and not {expected}"
            expected += 1
            await pause()
    assert expected == most, f"{expected} items, and not {most}"


async def node(sim: Simulation, truth: Truth, limits: Limits) -> None:
    server = Server(store=sim.store(), cluster=Cluster(sim.engine()), detached_timeout=DETACHED, limits=limits)
    serve(server, truth)
    cluster, here = server.cluster, sim.here.partition(" ")[0]
    assert cluster is not None

    @server.on_handshake
    def log_in(handshake: Handshake) -> None:
        handshake.principal = handshake.query["who"]
        if not handshake.query["who"].startswith("guest"):
            handshake.address = handshake.query["who"]

    lobby = server.room("lobby", allow=lambda peer: True, keep=KEPT)
    hall = server.room("hall", allow=lambda peer: True, presence=GRACE)
    news, staff = server.room("news", keep=KEPT), server.room("staff")

    @server.on("open")
    def welcome(peer: Peer) -> None:
        truth.opened[peer.id] = sim.now
        peer.emit_nowait("welcome")
        news.add(peer)
        if peer.principal == STAFF:
            staff.add(peer)

    @server.on_presence
    def changed(room: object, present: Any) -> None:
        truth.present[str(present.user)] = present.state

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
            truth.emitted[name] = Emission(room, began)

        try:
            await asyncio.gather(*map(emit, texts))
        except Overloaded as exc:
            raise RpcError(f"perhaps not said: {exc}") from None
        return number

    @server.on("who")
    def who() -> list[str]:
        return sorted(map(str, hall.present()))

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

    @server.on("ask back")
    async def ask_back(number: int, size: int, peer: Peer) -> int:
        truth.begins(number)
        inner, call = truth.call("the question of a node")
        with suppress(WsrpcError):
            await told(call, peer.request("later", inner, 0.2, "x" * size, timeout=2.0 if size else None))
        return number

    @server.on("ask other")
    async def ask_other(number: int, address: str) -> int:
        """Events to a client of any node arrive in order, and do not overtake requests."""
        truth.begins(number)
        sender = f"call {number} to {address}"
        other = cluster.peer(address)
        asking = list[asyncio.Task[int]]()
        try:
            for each in range(1, 7, 2):
                asking.append(asyncio.create_task(other.request("mark", sender, each)))
                asking[-1].add_done_callback(lambda task: task.cancelled() or task.exception())
                await asyncio.sleep(0)
                await other.emit("note", sender, each + 1)
        except PeerNotFound:
            others = [name for name in NODES if name != here]
            is_well = truth.only_pauses and sim.now > 25.0 and not (truth.kicked or address in truth.finished)
            is_well = is_well and sim.is_well(*others, address, "broker", since=sim.now - 20.0)
            assert not is_well, f"{here} does not find {address}, for no reason"
            truth.losses[sender] += 1
        except WsrpcError:
            truth.losses[sender] += 1
        for outcome in await asyncio.gather(*asking, return_exceptions=True):
            truth.losses[sender] += isinstance(outcome, WsrpcError)
        return number

    @server.on("ring other")
    async def ring_other(number: int, address: str) -> int:
        truth.begins(number)
        with suppress(WsrpcError, TimeoutError):
            key = f"{sim.random.randrange(20)} {address}"
            ringing = cluster.peer(address).request("ring", key, key=key, timeout=5.0, deliver_within=60.0)
            assert await ringing == f"rung {key}"
        return number

    @server.on("kick other")
    async def kick_other() -> None:
        """Close the connection of somebody at this node, who knows of its session."""
        often = {user for user, count in Counter(user for user, _, _ in truth.kicked.values()).items() if count > 1}
        known = [each for each in server.peers if truth.opened[each.id] < sim.now - 5.0]
        found = [each for each in known if each.id not in truth.kicked and str(each.principal) not in often]
        if found:
            peer = sim.random.choice(found)
            kicked = truth.kicked.setdefault(peer.id, (str(peer.principal), sim.now, f"kick {len(truth.kicked)}"))
            await peer.close(4001, kicked[2])

    def others_are_known() -> None:
        """A process that goes on after a pause still knows the others."""
        missing = set(NODES) - {truth.node_names[name] for name in cluster.nodes}
        lost = [name for name in missing if sim.is_well(name, "broker", since=sim.now - 20.0)]
        assert not lost or not cluster.nodes, f"{here} has given up {lost}"

    async with server.listen(port=80):
        truth.node_names[cluster.nodes[0]] = here
        if truth.only_pauses:
            sim.always(lambda: others_are_known() if sim.now > 30.0 and not truth.last_words else None)
        try:
            await asyncio.Event().wait()
        finally:
            began = sim.now
            await server.close(drain_timeout=5)
            is_slow = not truth.kinds.isdisjoint({"slow", "pause"})
            assert sim.now < began + 15.0 or is_slow, f"to close the server takes {sim.now - began:g} s"
