"""A page's session whose server lies or whose network is silent: an honest end, no growth, and no loop of attempts."""

from __future__ import annotations

import asyncio
import itertools
import json
from typing import Any

import pytest
from leftovers import turns_until

from interop.node import JS, find_node
from interop.page_client import Page as ClientPage
from interop.session_pages import Connection, Page, Pages, Script, session_module, until
from wsrpc import Peer, Server
from wsrpc.testing import FaultProxy

GROWTH = 1024 * 1024  # bytes


async def welcomed(script: Script, pages: Pages, **options: Any) -> tuple[Page, Connection]:
    """A page with a session that can resume, and its connection."""
    page = await pages.session(script.url, **options)
    connection = await script.next(len(script.connections) + 1)
    await connection.say("welcome", features=["resume", "probe"], sid="s", token="t", ttl=60, limits={})
    await (await connection.socket.ping())  # answered when the page has read the welcome
    return page, connection


async def test_a_server_that_drops_each_connection_is_dialed_ever_more_rarely() -> None:
    """Timers never fire early, so these times are the least. Math.random() is 0.5."""
    async with Pages.start() as pages, Script.start() as script:
        page, connection = await welcomed(script, pages)
        for count in range(2, 6):
            connection.drop()
            connection = await script.next(count)
            await connection.say("resumed", rx=0, bytes=0, token="t", limits={})
            await page.until("resumed", count - 1)
        gaps = [later.at - earlier.at for earlier, later in itertools.pairwise(script.connections)]
        assert [gap >= least for gap, least in zip(gaps, (0.24, 0.49, 0.98, 1.98), strict=True)] == [True] * 4
        await page.do(["close"])


@pytest.mark.parametrize(
    ("kept", "lasts", "wanted"),
    [(60.0, (0, 1500, 5000, 0, 0, 1500, 0), [0.5, 0.5, 0.5, 1, 2, 0.5, 1]), (8.0, (0, 0, 0, 0), [0.5, 1, 1, 1])],
)
async def test_drops_of_a_session_that_resumes_and_lasts_are_no_series_of_failures(
    kept: float, lasts: tuple[int, ...], wanted: list[float]
) -> None:
    """After four drops in 30 seconds a page waited for half a minute, although the server could be reached.

    And a session that is kept for so long ended between two attempts.
    """
    ahead = "globalThis.ahead = 0; const { now } = Date; Date.now = () => now() + ahead"
    server = Server(detached_timeout=kept)
    async with server.listen() as listener, FaultProxy(listener.url) as proxy, ClientPage.start() as page:
        await page.run(f"Math.random = () => 1e4; {ahead}")  # pauses take hours, and their bound is told
        await page.do("open", at=proxy.url)
        await page.notes.until("open")
        bounds: list[float] = []
        for count, lasted in enumerate(lasts, 1):
            await page.run(f"ahead += {lasted}")
            proxy.drop()
            await page.notes.until("detached", count)
            bounds.append(round(await page.run("return client.retryAt - Date.now()") / 1e7, 1))
            await page.run("client.connect()")
            await page.notes.until("open", count + 1)
        assert bounds == wanted
        await page.do("close")


async def test_a_server_that_says_gone_is_asked_once() -> None:
    async with Pages.start() as pages, Script.start() as script:
        page, connection = await welcomed(script, pages)
        connection.drop()
        connection = await script.next(2)
        for _ in range(100):
            await connection.say("gone", why="expired")
            await connection.say("welcome", features=["resume"], sid="s2", token="t2", ttl=60, limits={})
        await page.until("close")
    assert page.events == ["open", "detached", "close 1006 not resumed: expired"]
    assert script.wire() == "hello | resume (1000)"


async def test_each_answer_has_the_token_for_the_next_attempt() -> None:
    async with Pages.start() as pages, Script.start() as script:
        page, connection = await welcomed(script, pages)
        tokens: list[Any] = ["t 1", 7, None, "t 3"]
        for count, token in enumerate(tokens, 2):
            connection.drop()
            connection = await script.next(count)
            await connection.say("resumed", rx=0, bytes=0, token=token, sid="other", limits={})
            await page.until("resumed", count - 1)
        asked = [connection.controls[0] for connection in script.connections[1:]]
        assert [control["token"] for control in asked] == ["t", "t 1", 7, None]
        assert [control["gen"] for control in asked] == [1, 2, 3, 4]
        assert {control["sid"] for control in asked} == {"s"}
        await page.do(["close"])


@pytest.mark.parametrize(
    ("resumes", "kind", "field", "events"),
    [
        (False, "welcome", "token", ["open"]),
        (False, "welcome", "ttl", ["open"]),
        (False, "ack", "n", ["open", "close 4400 the counts differ"]),
        (True, "gone", "why", ["open", "detached", "close 1006 not resumed: [object Object]"]),
        (True, "resumed", "rx", ["open", "detached", "close 4400 the counts differ"]),
        (True, "resumed", "token", ["open", "detached", "resumed"]),
    ],
)
async def test_values_that_cannot_become_texts(resumes: bool, kind: str, field: str, events: list[str]) -> None:
    """They threw, and the session stayed as it was."""
    fields: dict[str, Any] = {"features": ["resume", "probe"], "sid": "s", "token": "t", "ttl": 60, "rx": 0, "n": 0}
    odd = {**fields, "bytes": 0, "limits": {}, field: {"toString": 1, "valueOf": 1}}
    async with Pages.start() as pages, Script.start() as script:
        if kind == "welcome":
            page = await pages.session(script.url)
            connection = await script.next(1)
        else:
            page, connection = await welcomed(script, pages)
        if resumes:
            connection.drop()
            connection = await script.next(2)
        await connection.say(kind, **odd)
        if kind == "welcome":
            await (await connection.socket.ping())
        await until(lambda: page.events == events, lambda: page.events)
        await page.do(["close"])


async def test_the_hint_is_offered_only_to_resume() -> None:
    async with Pages.start() as pages, Script.start() as script:
        page, connection = await welcomed(script, pages, token="secret")
        connection.drop()
        connection = await script.next(2)
        await connection.say("resumed", rx=0, bytes=0, token="t", limits={})
        await page.until("resumed")
        assert script.offers == ["bearer.secret,wsrpc", "bearer.secret,wsrpc,wsrpc.resume"]
        await page.do(["close"])


async def test_floods_of_control_messages_leave_nothing() -> None:
    """Small ones of each kind, and some of 1 MB, which are too large to be control messages."""
    async with Pages.start("--expose-gc") as pages, Script.start() as script:
        page, connection = await welcomed(script, pages)

        async def flood(number: int) -> None:
            for kind in ("alive", "welcome", "gone", "resumed", "hello", "credit", "limits", "drain", "new"):
                for _ in range(number):
                    await connection.say(kind, h=1, n=2**53, bytes=-1, features=["resume"] * 50, why="x" * 500)
            for _ in range(8):
                await connection.say("credit", pad="x" * 1_000_000)
            await connection.socket.send("end")
            await until(lambda: "message end" in page.events)
            messages = [event for event in page.events if event.startswith("message")]
            assert len(messages) == 9
            del page.events[:], page.times[:]

        await flood(200)
        before = await pages.heap()
        for _ in range(5):
            await flood(200)
        assert await pages.heap() < before + GROWTH
        assert set(connection.got[1:]) == {"ack"}
        await page.do(["close"])


async def test_messages_that_have_arrived_are_not_kept() -> None:
    """With a real server, which acknowledges them."""
    server = Server()
    notes = 0
    due = asyncio.Event()

    @server.on("note")
    def note(text: str) -> None:
        nonlocal notes
        notes += 1
        if notes % 1000 == 0:
            due.set()

    @server.on("open")
    async def greet(peer: Peer) -> None:
        await peer.emit("hello")

    message = '{"a":["note","' + "x" * 80 + '"]}'
    async with (
        Pages.start("--expose-gc") as pages,
        server.listen("127.0.0.1", 0) as listener,
    ):
        page = await pages.session(listener.url)
        await page.until("message")  # so the welcome has come

        async def send(number: int) -> None:
            for _ in range(number):
                due.clear()
                await page.do(*[["send", message]] * 1000)
                await due.wait()

        await send(5)
        before = await pages.heap()
        await send(30)
        assert await pages.heap() < before + GROWTH
        await page.do(["close"])
        await page.until("close")


async def test_what_waits_has_a_bound() -> None:
    """Small messages count for more than their text. What the page holds is freed when the session has ended."""
    async with Pages.start("--expose-gc") as pages, Script.start() as script:
        page, connection = await welcomed(script, pages)
        before = await pages.heap()
        script.open.clear()
        connection.drop()
        await page.until("detached")
        assert await page.do(["many", 100_000, 1]) == 1
        assert await page.do(["many", 400_000, 1]) == 3
        await page.until("close")
        assert page.events == ["open", "detached", "close 4408 too much waits to be sent"]
        assert await pages.heap() < before + GROWTH


async def test_what_is_sent_before_the_welcome_has_a_bound_that_ends_nothing() -> None:
    """A plain server sends no welcome. A session that begins nevertheless ends with its connection."""
    async with Pages.start() as pages, Script.start() as script:
        page = await pages.session(script.url, buffer=1000)
        connection = await script.next(1)
        for count in range(1, 4):
            assert await page.do(["send", "x" * 400]) == 1
            await connection.until("x" * 400, count)
        await connection.say("welcome", features=["resume", "probe"], sid="s", token="t", ttl=60, limits={})
        await connection.until("gone")
        await page.do(["send", "y"])
        await connection.until("y")
        connection.drop()
        await page.until("close")
        assert page.events == ["open", "close 1006"]


async def test_a_message_above_the_bound_is_sent_but_no_other_one_after_it() -> None:
    async with Pages.start() as pages, Script.start() as script:
        page, connection = await welcomed(script, pages, buffer=1000)
        assert await page.do(["send", "x" * 5000]) == 1
        await connection.until("x" * 5000)
        assert await page.do(["send", "y"]) == 3
        await page.until("close")
        await connection.until("(4408)")
        assert page.events == ["open", "close 4408 too much waits to be sent"]
        assert "y" not in connection.got


async def test_silence_is_noticed_and_nothing_is_left_afterwards() -> None:
    """The proxy stops forwarding, until the page makes another connection."""
    server = Server()
    opened: asyncio.Queue[Peer] = asyncio.Queue()
    server.on("open", opened.put_nowait)
    loop = asyncio.get_running_loop()
    async with (
        Pages.start() as pages,
        server.listen("127.0.0.1", 0) as listener,
        FaultProxy(listener.url) as proxy,
    ):
        page = await pages.session(proxy.url)
        peer = await opened.get()
        await peer.emit("before")
        await page.until("message")
        await page.do(["send", '{"a":["nothing"]}'])
        async with proxy.silence():
            since = loop.time()
            await turns_until(lambda: proxy.connections == 2, patience=15)  # after 9 s
            assert loop.time() - since > 5
        await page.until("resumed")
        await peer.emit("after")
        await page.until("message", 2)
        # The other connection may be open before the first one is reset.
        events = [event for event in page.events if event != "detached"]
        assert events == ["open", 'message {"a":["before"]}', "resumed", 'message {"a":["after"]}']
        await page.do(["close"])
        await page.until("close")


BEGIN = "0 dial, 0 hello"
SILENT = {
    # The steps, with seconds and perhaps a number; and what the page does, with seconds.
    "nothing moves": (
        "0:welcome 15:end",
        "5 probe, 9 dial, 9 close 4412, 9 resume, 14 close 4412, 14 detached, 14.3 dial, 14.3 resume",
    ),
    "nothing moves, and nobody answers": (
        "0:welcome 0:deaf 19:end",
        "5 probe, 9 dial, 19 close 4412, 19 close 4412, 19 detached",
    ),
    "nothing moves, and no session": ("0:plain 20:end", "5 probe, 9 close 1000, 9 close"),
    "nothing moves, and the page is hidden": ("0:welcome 0:hide 34:end", "30 probe, 34 dial, 34 close 4412, 34 resume"),
    "messages arrive": ("0:welcome 4:message 8:message 12:message 16:end", "5 ack, 9 ack, 13 ack"),
    "the answer is late": ("0:welcome 0:deaf 16:alive 20:end", "5 probe, 9 dial"),
    "the answer is late, and the other connection never opens": (
        "0:welcome 0:deaf 16:alive 20:alive 24:alive 27:end",
        "5 probe, 9 dial, 26 close 1000",
    ),
    "a large message leaves": ("0:welcome 1:unsent:9 5:end 6:unsent:8 9:unsent:7 14:unsent:6 18:end", "5 probe"),
    "a large message does not leave": ("0:welcome 1:unsent:9 9:end", "5 probe, 9 dial, 9 close 4412, 9 resume"),
    "a message leaves, and nothing follows": (
        "0:welcome 4:unsent:9 5:end 6:unsent:0 9:end",
        "5 probe, 9 dial, 9 close 4412, 9 resume",
    ),
    "patience grows until something arrives": (
        "0:welcome 9:end 9:resumed 22:end 22:resumed 22:message 31:end",
        "5 probe, 9 dial, 9 close 4412, 9 resume, 9 resumed, 14 probe, 22 dial, 22 close 4412, 22 resume, 22 resumed, "
        "23 ack, 27 probe, 31 dial, 31 close 4412, 31 resume",
    ),
    "a slow download, and the page is seen again": (
        "0:welcome 2:message 3:hide 4:show 5:message 7:hide 8:show 11:message 12:end",
        "3 ack, 4 probe, 6 ack, 8 probe, 12 ack",
    ),
    "the page is seen again, and nothing moves": (
        "0:welcome 2:hide 3:show 7:end",
        "3 probe, 7 dial, 7 close 4412, 7 resume",
    ),
    "the network is back, and bytes have left before it was away": (
        "0:welcome 1:unsent:9 5:end 6:unsent:8 7:thaw 7:end",
        "5 probe, 7 probe, 7 dial, 7 close 4412, 7 resume",
    ),
    "connections drop before the answer, and then one is silent": (
        "0:welcome 1:drop 2:drop 4:drop 11:end",
        "1 close 4412, 1 detached, 1.3 dial, 1.3 resume, 2 close 4412, 2.5 dial, 2.5 resume, 4 close 4412, 5 dial, "
        "5 resume, 10 close 4412",
    ),
    "nothing moves, and the other connection is refused, long after a failure": (
        "0:welcome 1:refuse 1:drop 3:allow 5:resumed 6:refuse 14.5:end",
        "1 close 4412, 1 detached, 1.3 dial, 1.3 close 4412, 1.8 dial, 1.8 close 4412, 2.8 dial, 2.8 close 4412, "
        "4.8 dial, 4.8 resume, 5 resumed, 10 probe, 14 dial, 14 close 4412, 14 close 4412, 14 detached, 14.3 dial, "
        "14.3 close 4412",
    ),
    "the machine has slept": ("0:welcome 60:wakes 60:end", "60 probe, 60 dial, 60 close 4412, 60 resume"),
    "the machine has slept, and the server answers": ("0:welcome 0:deaf 60:wakes 60:alive 63:end", "60 probe, 60 dial"),
}


async def test_which_silence_ends_a_connection() -> None:
    """A page left its connection after 9 seconds of any one message, and after 2 when it was seen again."""
    rows = [[_timed(step) for step in steps.split()] for steps, _ in SILENT.values()]
    command = [find_node(), str(JS / "page_session_silence.mjs"), session_module(), json.dumps(rows)]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    seen = json.loads((await process.communicate())[0])
    played = {name: ", ".join(happened) for name, happened in zip(SILENT, seen, strict=True)}
    assert played == {name: f"{BEGIN}, {happens}" for name, (_, happens) in SILENT.items()}


def _timed(step: str) -> list[object]:
    at, name, *numbers = step.split(":")
    return [float(at), name, *map(int, numbers)]


async def test_a_large_message_over_a_slow_network_arrives_in_the_end() -> None:
    """It takes longer than an answer may. Each time the connection is left, the next one may take longer."""
    time = asyncio.get_running_loop().time
    async with Pages.start() as pages, Script.start() as script:
        begun = time()
        page, connection = await welcomed(script, pages)
        silent: list[float] = []
        for count in range(1, 3):
            await connection.until("probe")
            connection = await script.next(count + 1)
            silent.append(connection.at - begun)
            begun = time()
            await connection.say("resumed", rx=0, bytes=0, token="t", limits={})
        assert silent[0] > 5 + 3.9, "until the probe, and until the answer is overdue"
        assert silent[1] > 5 + 7.9
        await page.do(["close"])
