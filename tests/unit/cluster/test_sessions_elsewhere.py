"""Sessions of one server that resume through another one of its cluster."""

from __future__ import annotations

import asyncio
import math
import time
from contextlib import suppress
from typing import Any

import pytest
from elsewhere import LIMITS, world
from recorder import Recorder
from waiting import pause, settled, until

from wsrpc._core.api.peer import current_of
from wsrpc._core.session.session import VERSION
from wsrpc._core.wire.control import Gone, Resume, announce, write_control
from wsrpc.cluster import _session_forwarder
from wsrpc.cluster._cluster import membership_of
from wsrpc.cluster._nodes.node import BEAT
from wsrpc.errors import QueueFull
from wsrpc.testing import Line

ROOMY = LIMITS.replace(replay_bytes=2**26, stall_timeout=60.0)


async def test_the_peer_has_what_the_other_server_has_decided_about_the_connection() -> None:
    async with world(LIMITS.replace(unread_timeout=math.inf)) as w:  # infinity travels, too
        w.settings |= {"address": "eve", "expires": time.time() + 60}
        await w.forward()
        info = w.peer.info
        assert (info.headers["wsrpc-resume"], info.query["who"], w.peer.address) == ("1", "ada", "eve")
        w.settings["expires"] = time.time() + 3600
        await asyncio.sleep(61)
        assert w.codes == [1006, 4411] and len(w.backs) == 2 and all(back.resumed for back in w.backs)
        await w.goes_on()


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "another principal": ({"principal": "eve"}, "another principal"),
    "no principal": ({"principal": None}, "another principal"),
    "other limits": ({"limits": LIMITS.replace(running=7)}, "other limits"),
    "a principal that JSON cannot carry": ({"principal": ("ada",)}, "another server process"),
    "a target that JSON cannot carry": ({"target": "/\udcff"}, "another server process"),
    "more than the engine can carry": ({"target": "/" + "x" * 2**21}, "another server process"),
    "a wrong token": ({}, "no such session any more"),
    "a session that has ended": ({}, "no such session any more"),
    "a process that has ended": ({}, "another server process"),
}
"""What the second server decides, and why the client gets a new session there."""


@pytest.mark.parametrize("case", REFUSED)
async def test_a_client_that_is_refused_gets_a_new_session_where_it_is(case: str) -> None:
    settings, reason = REFUSED[case]
    async with world() as w:
        call = await w.call()
        # With the address of the first one, the new peer would sooner or later replace it.
        w.settings |= {"address": None, **settings}
        await w.drop()
        if case == "a session that has ended":
            await w.peer.close()
        elif case == "a process that has ended":
            await w.made[0].close()
        elif case == "a wrong token":
            session: Any = current_of(w.client.peer).session
            session._token = "x" * 43
        await w.loses(call, reason)
        assert len(w.made[1].peers) == 1 and not w.forwarded
        ends = case in ("other limits", "a session that has ended", "a process that has ended")
        assert w.made[0].peers == (() if ends else (w.peer,)), "attempts of others do not affect the session"


@pytest.mark.parametrize("code", [4001, 1008])
@pytest.mark.parametrize("away", [True, False])
async def test_the_code_with_which_the_server_closes_reaches_the_client(code: int, away: bool) -> None:
    async with world() as w:
        await w.forward()
        if away:
            await w.drop()
        await w.peer.close(code, "enough")
        w.gate.set()
        await until(lambda: w.closed)
        assert code in w.codes and (w.closed[0].code, w.closed[0].reason) == (code, "enough")
        if code != 1008:  # after which a client does not dial again
            await until(lambda: w.made[1].peers)


@pytest.mark.parametrize("drain", [0.0, 5.0])
async def test_when_the_server_closes_that_passes_the_messages_on_the_session_resumes_elsewhere(drain: float) -> None:
    async with world() as w:
        await w.forward()
        call = asyncio.create_task(w.client.request("echo", "x" * 3_000_000))
        w.at = 0
        await w.made[1].close(drain)
        assert await call == "x" * 3_000_000
        assert w.peer.connected and w.backs[-1].resumed and w.codes == [1006, 1006]


async def test_while_the_other_process_cannot_be_reached_the_client_asks_again() -> None:
    async with world() as w:
        await w.forward()
        call = asyncio.create_task(w.client.request("echo", 2))
        w.made.engine.freeze()
        w.transport.abort()
        await until(lambda: w.codes.count(1012), limit=1.9)
        w.made.engine.thaw()
        assert await call == 2 and w.backs[-1].resumed and {*w.codes} == {1006, 1012}


@pytest.mark.parametrize("says_so", [True, False], ids=["it says so", "it closes"])
async def test_a_client_that_leaves_meanwhile_does_not_take_its_address_from_its_next_connection(says_so: bool) -> None:
    """Its next connection was closed with 4410, after which a client does not dial again."""
    async with world() as w:
        w.settings |= {"address": "eve"}
        session = f"{w.made[0].cluster.nodes[0]}.unknown"
        await w.made.engine_goes()
        dial = w.dials[1]
        leaving = await dial("ws://server/?user=ada", headers={"Wsrpc-Resume": "1"})
        leaving.start(Recorder())
        asked = Resume(VERSION, [], announce(LIMITS), session, "token", gen=1, rx=0, bytes=0)
        leaving.send(write_control(asked))
        await settled()
        if says_so:
            leaving.send(write_control(Gone("closed")))
        else:
            closing = asyncio.create_task(leaving.close(1000))
        await settled()
        (await dial("ws://server/?user=ada")).start(Recorder())
        await until(lambda: w.made[1].peers)
        (peer,) = w.made[1].peers
        w.made.engine.down = False
        await asyncio.sleep(30)
        assert w.made[1].peers == (peer,) and peer.connected
        if not says_so:
            await closing


async def test_after_the_process_was_killed_the_client_gets_a_new_session_before_the_lease_is_over() -> None:
    async with world() as w:
        call = await w.call()
        connection = w.made.connection(w.made[0])
        w.made.engine.connections.discard(connection)  # nobody says so
        await w.drop()
        async with asyncio.timeout(1):
            await w.loses(call)
        assert {*w.codes} <= {1006} and w.made[1].cluster.nodes == (membership_of(w.made[1].cluster).node.id,)
        connection.end("killed")


async def test_a_process_that_connects_to_its_engine_again_keeps_its_sessions() -> None:
    """The engine says for a moment that nobody hears it."""
    async with world() as w:
        connection = w.made.connection(w.made[0])
        await w.drop()
        connection.end("too slow")
        await w.goes_on()


@pytest.mark.parametrize("end", ["the process of its session has lost the engine", "its own process was paused"])
async def test_an_idle_client_notices_that_the_way_to_its_session_has_ended(end: str) -> None:
    """It believed to be connected until it sent something. By then, its session was over."""
    async with world() as w:
        await w.forward()
        await asyncio.sleep(60)  # nothing is said any more of what was sent before
        back = len(w.backs)
        if end == "its own process was paused":
            pause(5)
        else:
            w.made.connection(w.made[0]).end("too slow")
        await asyncio.sleep(5)
        assert len(w.backs) > back
        await w.goes_on()


async def test_while_the_engine_is_away_a_client_gets_a_new_session_after_a_while() -> None:
    async with world() as w:
        call = await w.call()
        await w.made.engine_goes()
        await w.drop()
        await w.loses(call)
        w.made.engine.down = False
        # The client with its address is at the other process now.
        await until(lambda: not w.made[0].peers, limit=BEAT + 0.6)


async def test_a_process_that_has_just_started_waits_until_it_knows_the_others() -> None:
    async with world() as w:
        await w.drop()
        w.made.engine.down = True  # for the one that is to come
        third = await w.made.add(limits=LIMITS)
        w.dials[1] = Line(third).dial
        coming = asyncio.create_task(w.goes_on())
        await settled()
        w.made.engine.down = False
        await coming
        w.at = 0


async def test_the_clients_for_which_a_process_asks_at_the_same_time_are_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_session_forwarder, "MOST_ASKING", 0)
    async with world() as w:
        await w.drop()
        w.gate.set()
        await until(lambda: 1013 in w.codes)
        assert w.peer.detached


async def test_a_request_that_makes_no_sense_changes_nothing() -> None:
    async with world() as w:
        node = membership_of(w.made[1].cluster).node
        before = node.connections.dialed
        for text in ("", "{", '{"asked":{"t":"resume"}}'):
            with suppress(ConnectionRefusedError):
                await node.connections.dial(w.made[0].cluster.nodes[0], {_session_forwarder.SESSION: text})
            await settled()
        assert node.connections.dialed == before + 3 and await w.client.request("echo", 2) == 2


@pytest.mark.parametrize("through", [0, 1])
async def test_what_waits_for_a_slow_reader_is_bounded(through: int) -> None:
    """The server learns that the client does not read as if it were connected to it."""
    size, count = 256 * 1024, 200
    async with world(ROOMY) as w:
        if through:
            await w.forward()
        transport, got, sent = w.transport, list[int](), 0
        w.client.on("block", lambda number, block: got.append(number))
        transport.pause_receiving()

        async def emit() -> None:
            nonlocal sent
            for number in range(count):
                await w.peer.emit("block", number, "x" * size)
                sent += 1

        emitting = asyncio.create_task(emit())
        stalled = -1
        while sent != stalled:
            stalled = sent
            await asyncio.sleep(0.3)
        assert sent < count / 4, "the replay buffer would take all of it"
        transport.resume_receiving()
        await emitting
        await until(lambda: len(got) == count)
        assert got == [*range(count)] and not w.closed
        # The hard cap holds, too.
        transport.pause_receiving()

        async def emit_now() -> None:
            for number in range(count):
                w.peer.emit_nowait("block", number, "x" * size)
                await asyncio.sleep(0)

        with pytest.raises(QueueFull):
            await emit_now()
        transport.resume_receiving()
        assert await w.client.request("echo", 2) == 2
