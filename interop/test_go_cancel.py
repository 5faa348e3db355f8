"""Cancellation between Python and Go, in both roles."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from interop.peers import Link, until
from wsrpc import RemoteError, RequestTimeout, RpcError

pytestmark = pytest.mark.asyncio(loop_scope="session")

N = 200
CHANNELS = [None, "math"]


@pytest.mark.parametrize("channel", CHANNELS)
async def test_go_cancels(go_link: Link, channel: str | None) -> None:
    for fields, text in [({"reason": "bored"}, "bored"), ({}, "context canceled")]:
        ref, asked = go_link.start_asking("hang", channel=channel)
        await go_link.seen.started.get()
        await go_link.call("cancel", ref=ref, **fields)
        argument, reason = await go_link.seen.cancelled.get()
        assert argument is reason
        assert isinstance(reason, RemoteError)
        assert reason.message == text
        assert (await asked)["rejected"]["message"] == f"awaiting response: {text}"


async def test_time_runs_out_in_go(go_link: Link) -> None:
    while go_link.seen.started.empty():  # it never begins if its cancellation comes in one read with the request
        thrown = await go_link.ask_in_vain("hang", timeout_ms=50)
        assert thrown["name"] == "context.DeadlineExceeded"
        await go_link.quiet()
        await until(lambda: go_link.peer.active == 0)
    _, reason = await go_link.seen.cancelled.get()
    assert str(reason) == "context deadline exceeded"


async def test_python_cancels(go_link: Link) -> None:
    """Go gets the text of an error, or what is text itself; of anything else only that it was cancelled."""
    for reason, text in [
        ("bored", "bored"),
        ("ünï \U0001f600", "ünï \U0001f600"),
        (RpcError("bored", code=7, data=[1]), "bored"),
        (ValueError("no longer"), "no longer"),
        (None, "Request aborted"),
        (object(), "Request aborted"),
        ({"why": [1, None]}, "context canceled"),
        (0, "context canceled"),
        (10**400, "Request aborted"),  # which would close the connection
    ]:
        asked = asyncio.create_task(go_link.peer.request("hang"))
        await go_link.journal("started")
        asked.cancel(reason)
        with pytest.raises(asyncio.CancelledError):
            await asked
        (aborted,) = await go_link.journal("aborted")
        assert aborted["reason"]["message"] == text
    assert go_link.peer.pending == 0


@pytest.mark.parametrize("channel", CHANNELS)
async def test_time_runs_out_in_python(go_link: Link, channel: str | None) -> None:
    caller = go_link.peer if channel is None else go_link.peer.of(channel)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await caller.request("hang")
    with pytest.raises(RequestTimeout):
        await caller.request("hang", timeout=0.02)
    aborted = await go_link.journal("aborted", at_least=2)
    assert [(entry["channel"], entry["reason"]["message"]) for entry in aborted] == [(channel, "Request aborted")] * 2
    assert await caller.request("add", 1, 2) == 3


async def test_a_channel_that_comes_too_late_is_aborted(go_link: Link) -> None:
    asked = asyncio.create_task(go_link.peer.request("wait", "late channel", "channel"))
    await go_link.journal("started")
    asked.cancel("bored")
    with pytest.raises(asyncio.CancelledError):
        await asked
    # Its handler hears of it, and returns no channel; one that does not is asked here.
    await go_link.journal("channel_closed")
    asked = asyncio.create_task(go_link.peer.request("channel_make"))

    async def cancel() -> None:
        asked.cancel("bored")  # begins after the request was sent, and before its answer can be here

    await asyncio.create_task(cancel())
    with pytest.raises(asyncio.CancelledError):
        await asked
    await go_link.journal("channel_closed")


async def test_half_of_many_are_cancelled_both_ways(go_link: Link) -> None:
    peer, seen = go_link.peer, go_link.seen
    ours_answered = {k: asyncio.create_task(peer.request("ask", "gate", k)) for k in range(0, N, 2)}
    ours_cancelled = {k: asyncio.create_task(peer.of("math").request("hang")) for k in range(1, N, 2)}
    theirs_answered = {k: go_link.start_asking("gate", N + k)[1] for k in range(0, N, 2)}
    theirs_cancelled = {k: go_link.start_asking("hang", N + k, channel="math") for k in range(1, N, 2)}
    started = sorted([await seen.started.get() for _ in range(3 * N // 2)])
    assert started == sorted([*range(0, N, 2), *range(N, 2 * N)])
    await go_link.journal("started", at_least=N // 2)

    for k, task in ours_cancelled.items():
        task.cancel(str(k))
    for k, (ref, _) in theirs_cancelled.items():
        await go_link.call("cancel", ref=ref, reason=str(N + k))
    aborted = await go_link.journal("aborted", at_least=N // 2)
    assert sorted(int(entry["reason"]["message"]) for entry in aborted) == list(ours_cancelled)
    reasons: list[Any] = [await seen.cancelled.get() for _ in theirs_cancelled]
    assert sorted(int(str(reason)) for _, reason in reasons) == [N + k for k in theirs_cancelled]
    await asyncio.wait(ours_cancelled.values())
    assert all(task.cancelled() for task in ours_cancelled.values())
    for _, asked in theirs_cancelled.values():
        assert "rejected" in await asked

    seen.gate.set()
    assert await asyncio.gather(*ours_answered.values()) == list(ours_answered)
    answers = await asyncio.gather(*theirs_answered.values())
    assert [answer["resolved"] for answer in answers] == [N + k for k in theirs_answered]
    assert (peer.pending, seen.cancelled.empty()) == (0, True)
