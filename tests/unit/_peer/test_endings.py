"""How a connection ended, as `close` handlers are told; and what may be said at the end."""

from __future__ import annotations

import asyncio
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from leftovers import nothing_left as nothing_left
from leftovers import turns_until
from raw_websocket import CLOSE, TEXT, RawPeer, raw_client, raw_server

from wsrpc import CallNext, Client, CloseCode, CloseInfo, Context, Handshake, Limits, Server, dial
from wsrpc._server.peers import served_peer

pytestmark = pytest.mark.usefixtures("nothing_left")

LIMITS = Limits(close_timeout=2.0)

Ending = tuple[int, str, bool, bool]


def told(info: CloseInfo) -> Ending:
    return info.code, info.reason, info.was_clean, info.user_closed


async def say(raw: RawPeer, frame: bytes) -> None:
    """A Close frame, and the end of the TCP connection once it is answered."""
    await raw.send(frame)
    await raw.next_of(CLOSE)


@pytest.mark.parametrize(
    ("left_by", "code"),
    [
        # A Close frame without a code, and no Close frame, are two things.
        *((code, code) for code in (1000, 3999, 4001)),
        (None, CloseCode.NO_STATUS),
        ("drop", CloseCode.ABNORMAL),
        ("reset", CloseCode.ABNORMAL),
        # Codes that may not be sent are the client's violation.
        *((code, 1002) for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535)),
    ],
)
async def test_a_server_learns_how_its_client_left(left_by: int | str | None, code: int) -> None:
    server = Server(limits=LIMITS)
    endings: list[CloseInfo] = []
    server.on("close", lambda peer, info: endings.append(info))
    async with server.listen() as listener, raw_client(listener.port) as raw:
        if left_by == "drop":
            raw.drop()
        elif left_by == "reset":
            raw.reset()
        else:
            assert not isinstance(left_by, str)
            await raw.send(raw.close_frame(left_by, "bye" if left_by else ""))
            assert (await raw.next_of(CLOSE)).code == code
        raw.sock.close()
        await turns_until(lambda: endings)
    [info] = endings
    assert (info.code, info.user_closed, info.will_reconnect) == (code, False, False)
    assert info.was_clean == (code not in (1002, CloseCode.ABNORMAL))
    assert (info.reason == "bye") == (code == left_by)


async def test_a_client_learns_of_a_close_without_a_code() -> None:
    endings: list[Ending] = []
    async with raw_server() as plain:
        client = Client(plain.url, limits=LIMITS, reconnect=None, proxy=None)
        client.on("close", lambda peer, info: endings.append(told(info)))
        connecting = asyncio.create_task(client.connect())
        raw = await plain.accept()
        await connecting
        await say(raw, raw.close_frame(None))
        raw.drop()
        await turns_until(lambda: endings)
        await client.close()
    assert endings == [(CloseCode.NO_STATUS, "", True, False)]


# ---------------------------------------------------------------- what has not started by then


WAITS = ["place", "order", "thread", "middleware"]


@pytest.mark.parametrize("how", ["close", "violation", "expires"])
@pytest.mark.parametrize("waits", WAITS)
async def test_a_handler_that_waits_does_not_start_once_a_close_frame_is_queued(waits: str, how: str) -> None:
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    server = Server(limits=LIMITS.replace(running=1 if waits == "place" else 1024))
    started: list[int] = []
    exited, go_on, thread_goes_on = asyncio.Event(), asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    @server.on("work", ordered=waits == "order")
    async def work(n: int) -> None:
        started.append(n)
        if waits != "middleware":
            await go_on.wait()
        exited.set()

    @server.on("work in a thread", thread=True)
    def work_in_a_thread(n: int) -> None:
        started.append(n)
        thread_goes_on.wait(8)
        loop.call_soon_threadsafe(exited.set)

    if waits == "middleware":

        @server.use
        async def slow(ctx: Context, call_next: CallNext) -> object:
            if ctx.args != (0,):
                await go_on.wait()
            return await call_next(ctx)

    async with server.listen() as listener, raw_client(listener.port) as raw:
        await turns_until(lambda: server.peers)
        [peer] = server.peers
        event = "work in a thread" if waits == "thread" else "work"
        messages = [{"a": [event, 0]}, {"a": [event, 1]}, {"i": 1, "a": [event, 2]}, {"a": [event, 3]}]
        await raw.send(*[raw.frame(TEXT, json.dumps(message)) for message in messages])
        await turns_until(lambda: started and peer.stats().messages_in == len(messages))
        closing = None
        if how == "close":
            closing = asyncio.create_task(peer.close(4001, "logged out"))
        elif how == "violation":
            await raw.send(*[raw.frame(TEXT, '{"a":["work"') for _ in range(12)])
        else:
            served = served_peer(peer)
            assert served is not None
            served.expire_at(0.0)
        await raw.next_of(CLOSE)
        go_on.set()
        thread_goes_on.set()
        await exited.wait()
        for _ in range(50):
            await asyncio.sleep(0)
        assert started == [0]
        raw.drop()
        await turns_until(lambda: server.peers == () and peer.active == 0)
        if closing is not None:
            await closing
        assert started == [0]
        assert peer.ignored["dropped at the end"] == (3 if waits == "place" else 2)
        await turns_until(lambda: server.stats().ignored == peer.ignored)


async def test_what_waits_when_credentials_expire_is_handled_once_the_session_goes_on() -> None:
    server = Server(limits=LIMITS)
    got: list[int] = []
    go_on = asyncio.Event()

    @server.on("note", ordered=True)
    async def note(n: int) -> None:
        got.append(n)
        await go_on.wait()

    @server.on_handshake
    def check(handshake: Handshake) -> None:
        handshake.principal = "ada"

    async with server.listen() as listener:
        async with raw_client(listener.port) as raw:
            await control(raw, t="hello", v=1, features=["resume"], limits={})
            welcome = json.loads((await raw.next_of(TEXT)).payload)["wsrpc"]
            await control(raw, t="ack", n=0, bytes=0)
            notes = [f'{{"a":["note",{n}]}}' for n in range(4)]
            await raw.send(*[raw.frame(TEXT, note) for note in notes[:2]])
            await turns_until(lambda: got == [0])
            [peer] = server.peers
            served = served_peer(peer)
            assert served is not None
            served.expire_at(0.0)
            assert (await raw.next_of(CLOSE)).code == CloseCode.CREDENTIALS_EXPIRED
            go_on.set()
            await raw.send(*[raw.frame(TEXT, note) for note in notes[2:]], raw.close_frame(4411))
            await turns_until(lambda: peer.detached)
            assert got == [0]
        async with raw_client(listener.port, "/", "Wsrpc-Resume: 1") as raw:
            fields = {"features": ["resume"], "limits": {}, "sid": welcome["sid"], "token": welcome["token"]}
            await control(raw, t="resume", v=1, gen=1, rx=0, bytes=0, **fields)
            answer = json.loads((await raw.next_of(TEXT)).payload)["wsrpc"]
            assert (answer["t"], answer["rx"]) == ("resumed", 2), "what crossed the Close frame is sent again"
            await raw.send(*[raw.frame(TEXT, note) for note in notes[2:]])
            await turns_until(lambda: got == [0, 1, 2, 3])
            await say(raw, raw.close_frame())
            raw.drop()
            await turns_until(lambda: server.peers == ())


async def control(raw: RawPeer, **fields: Any) -> None:
    await raw.send(raw.frame(TEXT, json.dumps({"ws-wrapper": False, "wsrpc": fields})))


# ---------------------------------------------------------------- what may be said


@pytest.mark.parametrize(
    ("code", "reason", "text"),
    [
        *((code, "", "may not be sent") for code in (-1, 0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535)),
        *((1000, reason, "123 bytes") for reason in ("x" * 124, "ü" * 62)),
    ],
)
async def test_a_code_or_reason_that_may_not_be_sent_is_a_local_error(code: int, reason: str, text: str) -> None:
    async with Server(limits=LIMITS).listen() as listener:
        async with Client(listener.url, limits=LIMITS, proxy=None) as client:
            for closable in (client, client.peer, client.peer.transport):
                assert closable is not None
                with pytest.raises(ValueError, match=text):
                    await closable.close(code, reason)
            assert client.connected


@pytest.mark.parametrize("code", [1000, 1001, 1003, 1008, 1011, 1013, 1014, 3000, 3999, 4000, 4999])
async def test_others_arrive(code: int) -> None:
    server = Server(limits=LIMITS)
    endings: list[Ending] = []
    server.on("close", lambda peer, info: endings.append(told(info)))
    async with server.listen() as listener:
        transport = await dial(listener.url, limits=LIMITS, proxy=None)
        await transport.close(code, "x" * 123)
        await turns_until(lambda: endings)
    assert endings == [(code, "x" * 123, True, False)]


def test_every_code_that_has_a_name() -> None:
    """Those of the IANA registry, and wsrpc's own."""
    registered = {*range(1000, 1004), *range(1005, 1016), 3000, 3003, 3008}
    ours = {4400, 4408, 4409, 4410, 4411}
    assert {int(code) for code in CloseCode} == registered | ours
