"""Events and requests between Python and JavaScript: both ways, nested, many at once, on channels."""

from __future__ import annotations

import asyncio

import pytest

from interop.peers import Link
from wsrpc import RemoteError, RequestTimeout, Server
from wsrpc.types import EmitReport

pytestmark = pytest.mark.asyncio(loop_scope="session")

MIB = 1024 * 1024


async def test_events_to_javascript_arrive_in_order(link: Link) -> None:
    math = link.peer.of("math")
    for k in range(100):
        await (math if k % 3 == 0 else link.peer).emit("log", k, {"k": k})
    link.peer.emit_nowait("log", "last")
    entries = await link.journal("event", at_least=101)
    assert [(entry["channel"], entry["args"]) for entry in entries] == [
        *(("math" if k % 3 == 0 else None, [k, {"k": k}]) for k in range(100)),
        (None, ["last"]),
    ]


async def test_events_to_python_arrive_in_order(link: Link) -> None:
    for k in range(100):
        await link.tell("log", k, {"k": k}, channel="math" if k % 3 == 0 else None)
    for k in range(100):
        assert await link.seen.events.get() == ("math" if k % 3 == 0 else None, [k, {"k": k}])
    assert link.seen.events.empty()


async def test_emitting_to_all_reaches_javascript(link: Link) -> None:
    if isinstance(link.app, Server):
        assert await link.app.emit("log", "all") == EmitReport(1)
        assert await link.app.of("math").emit("log", "all") == EmitReport(1)
    else:
        await link.app.emit("log", "all")
        await link.app.of("math").emit("log", "all")
    entries = await link.journal("event", at_least=2)
    assert [(entry["channel"], entry["args"]) for entry in entries] == [(None, ["all"]), ("math", ["all"])]


@pytest.mark.parametrize("channel", [None, "math"])
async def test_requests_both_ways_at_once(link: Link, channel: str | None) -> None:
    caller = link.peer if channel is None else link.peer.of(channel)
    ours = [caller.request("add", k, 1, returns=int) for k in range(200)]
    theirs = [link.ask("add", k, 2, channel=channel) for k in range(200)]
    answers = await asyncio.gather(*ours, *theirs)
    assert answers == [*range(1, 201), *range(2, 202)]


@pytest.mark.parametrize("channel", [None, "math"])
async def test_requests_from_inside_a_handler(link: Link, channel: str | None) -> None:
    caller = link.peer if channel is None else link.peer.of(channel)
    assert await caller.request("ask", "add", 20, 1) == 21
    assert await caller.request("ask", "ask", "ask", "add", 20, 2) == 22
    assert await caller.request("askMany", "add", 50) == list(range(1, 51))
    assert await link.ask("ask", "add", 20, 3, channel=channel) == 23
    assert await link.ask("ask", "ask", "ask", "add", 20, 4, channel=channel) == 24
    assert await link.ask("askMany", "add", 50, channel=channel) == list(range(1, 51))
    # Each handler asks back many times while the other side does the same.
    many = await asyncio.gather(
        *(caller.request("askMany", "add", 20) for _ in range(20)),
        *(link.ask("askMany", "add", 20, channel=channel) for _ in range(20)),
    )
    assert many == [list(range(1, 21))] * 40


async def test_a_reserved_name_is_ordinary_on_a_named_channel(link: Link) -> None:
    heard: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    math = link.app.of("math")
    math.on("close", heard.set_result)

    @math.on("message")
    def upper(text: str) -> str:
        return text.upper()

    await link.tell("close", "the shop", channel="math")
    assert await heard == "the shop"
    assert await link.ask("message", "hi", channel="math") == "HI"
    assert link.peer.connected


async def test_an_empty_name_is_one(link: Link) -> None:
    def handle(*args: int) -> str:
        link.seen.events.put_nowait((None, list(args)))
        return "handled"

    link.app.on("", handle)
    await link.tell("", 1)
    assert await link.seen.events.get() == (None, [1])
    assert await link.ask("", 2) == "handled"
    await link.peer.emit("")
    with pytest.raises(RemoteError, match="No event listener for ''"):
        await link.peer.request("")
    assert link.peer.connected


async def test_unknown_events_and_channels(link: Link) -> None:
    with pytest.raises(RemoteError, match="nonesuch"):
        await link.peer.request("nonesuch")
    with pytest.raises(RemoteError, match="nonesuch"):
        await link.peer.of("math").request("nonesuch")
    with pytest.raises(RemoteError, match=r"^Channel 'attic' does not exist$"):
        await link.peer.of("attic").request("add", 1, 2)
    assert (await link.ask_in_vain("nonesuch"))["message"] == "No event listener for 'nonesuch'"
    assert (await link.ask_in_vain("nonesuch", channel="math"))["message"] == (
        "No event listener for 'nonesuch' on channel 'math'"
    )
    assert (await link.ask_in_vain("add", 1, 2, channel="cellar"))["message"] == "Channel 'cellar' does not exist"
    # As events they are dropped, without harm.
    await link.peer.emit("nonesuch")
    await link.peer.of("attic").emit("nonesuch")
    await link.tell("nonesuch")
    await link.tell("nonesuch", channel="cellar")
    assert await link.peer.request("add", 1, 2) == 3
    await link.quiet()
    assert link.peer.ignored["unknown event"] == 2


async def test_middleware_of_javascript(link: Link) -> None:
    await link.agent.call("set", middleware="append")
    for caller in (link.peer, link.peer.of("math")):
        assert await caller.request("args", 1) == [1, "appended"]
    await link.agent.call("set", middleware="refuse")
    with pytest.raises(RemoteError, match=r"^middleware refused 'add'$"):
        await link.peer.request("add", 1, 2)


async def test_timeout_of_a_python_request(link: Link) -> None:
    with pytest.raises(RequestTimeout, match=r"^no response to 'hang' within 0\.02 s$"):
        await link.peer.request("hang", timeout=0.02)
    await link.journal("started")
    assert link.peer.pending == 0
    assert await link.peer.request("add", 1, 2, timeout=None) == 3


async def test_timeout_of_a_javascript_request(link: Link) -> None:
    thrown = await link.ask_in_vain("hang", timeout_ms=20)
    assert (thrown["is_error"], thrown["message"]) == (True, "Request timed out")
    assert await link.ask("add", 1, 2) == 3


async def test_an_answer_that_comes_too_late_is_ignored(link: Link) -> None:
    thrown = await link.ask_in_vain("gate", "late", timeout_ms=20)
    assert thrown["message"] == "Request timed out"
    with pytest.raises(RequestTimeout):
        # JavaScript's handler waits for Python's, so both answers come after their time.
        await link.peer.request("ask", "gate", "later", timeout=0.02)
    # "late" need not have begun: 4.x cancels it, which may come in one read with the request.
    while await link.seen.started.get() != "later":
        pass
    link.seen.gate.set()
    assert await link.ask("gate", 1) == 1
    assert await link.peer.request("ask", "gate", 2) == 2


async def test_a_cancelled_request_harms_nobody(link: Link) -> None:
    """Before 4.x JavaScript knows no cancellation: its handler goes on, and its answer is ignored."""
    asked = asyncio.create_task(link.peer.request("ask", "gate", "late"))
    await link.seen.started.get()
    asked.cancel("bored")
    with pytest.raises(asyncio.CancelledError):
        await asked
    assert link.peer.pending == 0
    link.seen.gate.set()
    assert await link.peer.request("ask", "gate", 1) == 1
    assert await link.ask("ask", "echo", 2) == 2


async def test_large_arguments_and_results(link: Link) -> None:
    assert await link.peer.request("size", "x" * MIB) == MIB
    assert await link.peer.request("blob", MIB) == "x" * MIB
    assert await link.ask("size", "x" * MIB) == MIB
    assert await link.ask("blob", MIB) == "x" * MIB
    text = "äöü€\u2028\U0001f600" * 100_000
    assert await link.peer.request("echo", text) == text
    assert await link.ask("echo", text) == text
    sizes = await asyncio.gather(*(link.peer.request("size", "x" * MIB) for _ in range(4)), link.ask("blob", MIB))
    assert sizes == [MIB] * 4 + ["x" * MIB]


@pytest.mark.parametrize("event", ["add", "echo"])
async def test_a_burst_of_python_requests(link: Link, event: str) -> None:
    adds = event == "add"
    calls = [link.peer.request(event, *([k, 1] if adds else [k])) for k in range(5000)]
    assert await asyncio.gather(*calls) == [k + adds for k in range(5000)]
    assert link.peer.pending == 0


@pytest.mark.parametrize("event", ["add", "later"])
async def test_a_burst_of_javascript_requests(link: Link, event: str) -> None:
    """With plain handlers and with coroutines, of which more come than may run at once."""
    counts = await link.call("burst", n=5000, event=event)
    assert counts == {"right": 5000, "wrong": 0, "failed": 0, "first_error": None}


async def test_bursts_from_both_sides_at_once(link: Link) -> None:
    calls = [link.peer.of("math").request("add", k, 1) for k in range(5000)]
    counts, *answers = await asyncio.gather(link.call("burst", n=5000, event="later", channel="math"), *calls)
    assert counts == {"right": 5000, "wrong": 0, "failed": 0, "first_error": None}
    assert answers == list(range(1, 5001))
