"""Those who would resume somebody else's session, or count wrongly. Each gets the same answer, and changes nothing."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from leftovers import turns_until
from raw_websocket import BINARY, CLOSE, TEXT, RawPeer, raw_client

from wsrpc import Handshake, Limits, Peer, Server

RESUMES = "Wsrpc-Resume: 1"
HINTS = "Sec-WebSocket-Protocol: wsrpc.resume"
"""How web pages say the same."""


async def say(raw: RawPeer, **fields: Any) -> None:
    await raw.send(raw.frame(TEXT, json.dumps({"ws-wrapper": False, "wsrpc": fields})))


async def hear(raw: RawPeer) -> Any:
    """Return the next control message."""
    while True:
        said = json.loads((await raw.next_of(TEXT)).payload)
        if "wsrpc" in said:
            return said["wsrpc"]


class World:
    """A server, and one session on it whose connection has dropped."""

    def __init__(self, server: Server, port: int) -> None:
        self.server = server
        self.port = port
        self.sid = self.token = ""
        self.peer: Peer

    @asynccontextmanager
    async def greets(self, user: str = "", *features: str, host: str = "198.51.100.1") -> AsyncGenerator[RawPeer]:
        """A connection with a session of its own. Without a user, it has no principal."""
        async with raw_client(self.port, f"/?user={user}", f"X-Forwarded-For: {host}") as raw:
            await say(raw, t="hello", v=1, features=features or ["resume"], limits={})
            yield raw

    async def begin(self, **greeting: str) -> None:
        """Begin a session, count a few messages, and drop the connection."""
        async with self.greets(**greeting) as raw:
            welcome = await hear(raw)
            self.sid, self.token = welcome["sid"], welcome["token"]
            await say(raw, t="ack", n=0, bytes=0)
            await raw.send(raw.frame(TEXT, '{"a":["note",1]}'))
            await turns_until(lambda: len(self.server.peers) == 1)
            (self.peer,) = self.server.peers
            await self.peer.emit("hello", "x")
            await turns_until(lambda: self.peer.stats().messages_in == 3)
            raw.drop()
            await turns_until(lambda: not self.peer.connected)  # it may expire soon

    @asynccontextmanager
    async def comes(
        self, user: str = "ada", asks: str = RESUMES, *, hears: bool = True, **changes: Any
    ) -> AsyncGenerator[tuple[RawPeer, Any]]:
        """Resume as the session's own client would, with some fields changed; gives the connection and the answer."""
        fields = {"v": 1, "features": ["resume"], "limits": {}, "sid": self.sid, "token": self.token, "gen": 1}
        async with raw_client(self.port, f"/?user={user}", asks) as raw:
            await say(raw, **{"t": "resume", **fields, "rx": 0, "bytes": 0, **changes})
            yield raw, await hear(raw) if hears else None

    async def goes_on(self, gen: int = 1000) -> None:
        """The session's own client resumes it, and gets what it has missed."""
        async with self.comes(gen=gen) as (raw, answer):
            assert (answer["t"], answer["rx"], answer["bytes"]) == ("resumed", 1, 16)
            assert json.loads((await raw.next_of(TEXT)).payload) == {"a": ["hello", "x"]}
            await raw.send(raw.frame(CLOSE, b"\x03\xe8"))
            await raw.next_of(CLOSE)
        await turns_until(lambda: self.peer not in self.server.peers)


@asynccontextmanager
async def world(victim: dict[str, str] | None = None, **options: Any) -> AsyncGenerator[World]:
    server = Server(limits=Limits(close_timeout=0.05), **options)
    server.on("note", lambda n: None)

    @server.on_handshake
    def who(handshake: Handshake) -> None:
        handshake.principal = handshake.query["user"] or None

    async with asyncio.timeout(20), server.listen() as listener:
        made = World(server, listener.port)
        await made.begin(**victim or {"user": "ada"})
        yield made


OTHER = "x" * 43
HUGE = 10**200
"""A number with more digits than a close reason has room for."""


@pytest.mark.parametrize(
    "changes", [{"token": OTHER}, {"token": ""}, {"token": "é" * 100}, {"sid": OTHER}, {"gen": 0}, {}], ids=str
)
async def test_a_wrong_name_token_or_generation_gets_one_answer_and_changes_nothing(changes: dict[str, Any]) -> None:
    """The same as when the session has expired."""
    async with world(detached_timeout=60.0 if changes else 0.05) as w:
        if not changes:
            await turns_until(lambda: w.server.peers == ())
        async with w.comes(**changes) as (raw, answer):
            assert answer == {"t": "gone", "why": "expired"}
            assert (await hear(raw))["t"] == "welcome", "a new session begins"
            assert not changes or (w.peer.detached and len(w.server.peers) == 2)
        if changes:
            await w.goes_on()


async def test_the_session_of_another_server_is_elsewhere_whatever_else_is_wrong() -> None:
    async with world() as w, world() as other:
        async with w.comes(sid=other.sid, token=OTHER) as (raw, answer):
            assert answer == {"t": "gone", "why": "elsewhere"}
            assert (await hear(raw))["t"] == "welcome", "a new session begins"
        await w.goes_on()
        await other.goes_on()


@pytest.mark.parametrize("asks", [RESUMES, HINTS])
async def test_who_has_the_token_but_is_somebody_else_is_refused(asks: str) -> None:
    async with world() as w:
        async with w.comes("eve", asks) as (_, answer):
            assert answer == {"t": "gone", "why": "auth"}
        assert w.peer.detached and w.peer.principal == "ada"
        await w.goes_on()


async def test_a_token_is_good_until_a_newer_one_was_used_and_a_generation_once() -> None:
    async with world() as w:

        async def resumes(gen: int, token: str | None) -> str | None:
            """Resume and drop the connection; return the newer token."""
            async with w.comes(gen=gen, token=token) as (raw, answer):
                if answer["t"] != "resumed":
                    assert answer == {"t": "gone", "why": "expired"}
                    return None
                for used in (gen, gen - 1):
                    async with w.comes(gen=used, token=token) as (_, again):
                        assert again == {"t": "gone", "why": "expired"} and w.peer.connected
                raw.reset()
            await turns_until(lambda: w.peer.detached)
            return str(answer["token"])

        first = w.token
        second = await resumes(1, first)
        third = await resumes(2, first)
        assert second and third, "the answer may have been lost, so the old one is good again"
        assert await resumes(3, second) is None, "it was issued, but a newer one replaced it"
        assert await resumes(4, third)
        assert await resumes(5, first) is None, "a newer one was used"
        assert w.peer.detached


async def test_the_server_does_not_keep_the_token_itself() -> None:
    async with world() as w:
        gc.collect()
        held = (held for holder in gc.get_objects() for held in gc.get_referents(holder) if isinstance(held, str))
        assert not [each for each in held if each == w.token and each is not w.token]
        await w.goes_on()


@pytest.mark.parametrize(
    ("changes", "acks", "code"),
    [
        *(({"rx": rx, "bytes": size}, [], 4400) for rx, size in [(2, 100), (1, 15), (-1, 0), (0, 1), (HUGE, 0)]),
        *(({}, acks, 4400) for acks in ([(2, 32)], [(1, HUGE)], [(1, 999)], [(1, len('{"a":["hello","x"]}')), (0, 0)])),
        *(({"limits": {"values": least}}, [], 1007) for least in (-1, -HUGE)),
    ],
    ids=lambda value: str(value)[:60],
)
async def test_who_says_that_more_or_else_has_arrived_than_was_sent_ends_its_session(
    changes: dict[str, Any], acks: list[tuple[int, int]], code: int
) -> None:
    async with world() as w:
        async with w.comes(hears=not changes, **changes) as (raw, _):
            for n, total in acks:
                await say(raw, t="ack", n=n, bytes=total)
            assert (await raw.next_of(CLOSE)).code == code
        await turns_until(lambda: w.server.peers == ())


MORE, LAST = b"\xc1\x00", b"\xc1\x01"
EVENT = b'{"a":["note",7]}'
PARTS = ["msgpack", "parts", "resume"]


@pytest.mark.parametrize(
    ("parts", "code"),
    [
        ([b"\xc1"], 1007),
        ([MORE], 1007),
        ([MORE + EVENT, LAST], 1007),
        ([b"\xc1\x03" + EVENT], 1007),
        ([MORE + b"x" * 30_000] * 150, 1009),
        ([LAST + EVENT[:9]] * 11, 1007),
    ],
    ids=["no kind", "no content", "no content at the end", "unknown kind", "more than a message may have", "not JSON"],
)
async def test_parts_that_make_no_message_end_the_session(parts: list[bytes], code: int) -> None:
    async with world() as w:
        async with w.greets("eve", *PARTS) as raw:
            for part in parts:
                await raw.send(raw.frame(BINARY, part))
            assert (await raw.next_of(CLOSE)).code == code
        await turns_until(lambda: len(w.server.peers) == 1)


@pytest.mark.parametrize("features", [PARTS, PARTS[:1]])
async def test_another_message_may_come_between_parts_which_need_the_feature(features: list[str]) -> None:
    noted = asyncio.Queue[int]()
    async with world() as w, w.greets("eve", *features) as raw:
        w.server.on("note", noted.put_nowait)
        await raw.send(raw.frame(BINARY, MORE + EVENT[:5]))
        await raw.send(raw.frame(TEXT, '{"a":["note",1]}'))
        await raw.send(raw.frame(BINARY, LAST + EVENT[5:]))
        await raw.send(raw.frame(TEXT, '{"a":["note",2]}'))
        assert [await noted.get() for _ in features] == ([1, 7, 2] if features == PARTS else [1])


async def test_parts_that_wait_for_the_rest_count_while_there_is_no_connection() -> None:
    async with world(detached_bytes=400_000) as w:
        async with w.greets("eve", *PARTS) as raw:
            for _ in range(500):
                await raw.send(raw.frame(BINARY, MORE + b"x" * 1000))
            while (await hear(raw)).get("bytes", 0) < 420_000:  # acknowledged
                pass
            raw.drop()
        await turns_until(lambda: w.server.peers == (w.peer,))


@pytest.mark.parametrize(
    ("victim", "attackers"),
    [
        ({"user": "ada"}, [{"user": "mallory"}]),
        ({"host": "2001:db8::1"}, [{"host": f"2001:db8:0:1::{n:x}"} for n in range(1, 8)]),
        ({"host": "192.0.2.1"}, [{"host": "192.0.2.1"}]),  # the larger sessions end first
        ({"user": "ada"}, [{"host": f"192.0.2.{n}"} for n in range(1, 3)]),
    ],
    ids=["principals", "a network of one client", "the same address", "some without a principal"],
)
async def test_who_fills_the_memory_ends_its_own(victim: dict[str, str], attackers: list[dict[str, str]]) -> None:
    async with world(victim, trusted_proxies=["127.0.0.1"], detached_bytes=1_000_000) as w:
        w.server.on("report", lambda: "x" * 60_000)
        for number in range(40):
            async with w.greets(**attackers[number % len(attackers)]) as raw:
                await hear(raw)
                await say(raw, t="ack", n=0, bytes=0)
                await raw.send(raw.frame(TEXT, '{"i":1,"a":["report"]}'))
                await raw.next_of(TEXT)
                raw.drop()
            await turns_until(lambda: not any(peer.connected for peer in w.server.peers))
        assert 2 < len(w.server.peers) < 20, "the bound is reached"
        assert w.peer.detached
