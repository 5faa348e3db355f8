"""Cancellation between Python and JavaScript, from 4.x on, both ways, and that ids never meet."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from interop.agents import AgentError
from interop.peers import Link, until
from wsrpc import RemoteError, RequestTimeout, RpcError

pytestmark = pytest.mark.asyncio(loop_scope="session")

N = 500
CHANNELS = [None, "math"]


# ---------------------------------------------------------------- JavaScript cancels


@pytest.mark.parametrize("channel", CHANNELS)
async def test_values_as_reasons_in_python(link_4: Link, channel: str | None) -> None:
    for reason in ["just text", "ünï \U0001f600", {"why": [1, None]}, ["a"], 0, 7, "", False, {}]:
        ref, asked = link_4.start_asking("hang", channel=channel)
        await link_4.seen.started.get()
        await link_4.call("cancel", ref=ref, reason=reason)
        argument, cancel_reason = await link_4.seen.cancelled.get()
        assert argument == cancel_reason == reason
        assert type(cancel_reason) is type(reason)
        assert (await asked)["rejected"]["name"] == "RequestAbortedError"
    assert (await link_4.call("state"))["pending"] == 0


async def test_errors_as_reasons_in_python(link_4: Link) -> None:
    async def cancelled(**reason: Any) -> RemoteError:
        ref, asked = link_4.start_asking("hang")
        await link_4.seen.started.get()
        await link_4.call("cancel", ref=ref, **reason)
        argument, cancel_reason = await link_4.seen.cancelled.get()
        assert argument is cancel_reason
        assert isinstance(cancel_reason, RemoteError)
        assert (await asked)["rejected"]["name"] == "RequestAbortedError"
        return cancel_reason

    error = {"$error": {"message": "bored", "code": "E_BORED", "detail": {"minutes": 3}}}
    got = await cancelled(reason=error)
    assert (got.message, got.code, dict(got.fields)) == ("bored", None, {})
    await link_4.agent.call("set", error_props=True)
    got = await cancelled(reason=error)
    assert (got.message, got.code, dict(got.fields)) == ("bored", "E_BORED", {"detail": {"minutes": 3}})
    await link_4.agent.call("set", error_props=False)
    assert (await cancelled()).message == "This operation was aborted"  # what AbortController says
    assert (await cancelled(reason=None)).message == "Request aborted"  # what ws-wrapper says


async def test_a_javascript_timeout_cancels_the_python_handler(link_4: Link) -> None:
    while link_4.seen.started.empty():  # it never begins if its cancellation comes in one read with the request
        thrown = await link_4.ask_in_vain("hang", timeout_ms=50)
        assert (thrown["name"], thrown["message"]) == ("RequestTimeoutError", "Request timed out")
        await link_4.quiet()
        await until(lambda: link_4.peer.active == 0)
    argument, cancel_reason = await link_4.seen.cancelled.get()
    assert argument is cancel_reason
    assert isinstance(cancel_reason, RemoteError)
    assert cancel_reason.message == "Request aborted"


# ---------------------------------------------------------------- Python cancels


async def test_reasons_in_javascript(link_4: Link) -> None:
    default = {"message": "Request aborted"}
    for reason, value, message, props in [
        ("bored", "bored", None, {}),
        ("ünï \U0001f600", "ünï \U0001f600", None, {}),
        ({"why": [1, None]}, {"why": [1, None]}, None, {}),
        (0, 0, None, {}),
        (RpcError("bored", code=7, data=[1]), None, "bored", {"code": 7, "data": [1]}),
        (RpcError.of_value("plain"), "plain", None, {}),
        (ValueError("no longer"), None, "no longer", {}),
        (ValueError(), None, "ValueError", {}),
        (None, None, default["message"], {}),
        (object(), None, default["message"], {}),  # cannot be sent; the cancellation is what matters
        ("\ud800", None, default["message"], {}),
    ]:
        asked = asyncio.create_task(link_4.peer.request("hang"))
        await link_4.journal("started")
        asked.cancel(reason)
        with pytest.raises(asyncio.CancelledError):
            await asked
        (aborted,) = await link_4.journal("aborted")
        got = aborted["reason"]
        assert (got["value"], got["message"], got["props"]) == (value, message, props)
        assert got["is_error"] is (message is not None)
    assert link_4.peer.pending == 0
    assert (await link_4.call("state"))["active"] == 0


@pytest.mark.parametrize("channel", CHANNELS)
async def test_time_runs_out_in_python(link_4: Link, channel: str | None) -> None:
    caller = link_4.peer if channel is None else link_4.peer.of(channel)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await caller.request("hang")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(caller.request("hang"), 0.02)
    with pytest.raises(RequestTimeout):
        await caller.request("hang", timeout=0.02)
    aborted = await link_4.journal("aborted", at_least=3)
    assert [(entry["channel"], entry["reason"]["message"]) for entry in aborted] == [(channel, "Request aborted")] * 3
    assert link_4.peer.pending == 0
    assert (await link_4.call("state"))["active"] == 0
    assert await caller.request("add", 1, 2) == 3


# ---------------------------------------------------------------- channels that nobody asked for


# ---------------------------------------------------------------- many at once


async def test_cancellations_cross_answers(link_4: Link) -> None:
    """Every other request is cancelled while its answer may be on the way: it gets its own, or none."""
    peer = link_4.peer
    ours = [asyncio.create_task(peer.request("echo" if k % 4 else "channel_make", k)) for k in range(N)]
    theirs = [link_4.start_asking("later", N + k) for k in range(N)]

    async def cancel_ours() -> None:
        for task in ours[1::2]:
            task.cancel("bored")

    async def cancel_theirs(ref: str) -> None:
        try:
            await link_4.call("cancel", ref=ref, reason="bored")
        except AgentError as exc:
            if "no request under way" not in exc.message:  # it may have been answered already
                raise

    await asyncio.create_task(cancel_ours())
    await asyncio.gather(*(cancel_theirs(ref) for ref, _ in theirs[1::2]))
    for k, outcome in enumerate(await asyncio.gather(*ours, return_exceptions=True)):
        if k % 2:
            assert isinstance(outcome, asyncio.CancelledError)
        else:
            assert outcome == (k if k % 4 else None)
    for k, (_, asked) in enumerate(theirs):
        answer = await asked
        if "rejected" in answer:
            assert k % 2
            assert answer["rejected"]["name"] == "RequestAbortedError"
        else:
            assert answer["resolved"] == N + k
    await link_4.quiet()
    assert (peer.pending, peer.active) == (0, 0)
    state = await link_4.call("state")
    assert (state["pending"], state["active"]) == (0, 0)
    counts = await link_4.call("burst", n=N)
    assert counts == {"right": N, "wrong": 0, "failed": 0, "first_error": None}
