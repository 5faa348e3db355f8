"""Cancellation between Python and JavaScript, from 4.x on, both ways, and that ids never meet."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from interop.agents import AgentError
from interop.peers import Link, until
from wsrpc import RemoteError, RequestTimeout, RpcError
from wsrpc.errors import UnexpectedChannel

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


async def test_a_handler_that_answers_although_cancelled(link_4: Link) -> None:
    tidied: list[str] = []

    async def stubborn() -> str:
        link_4.seen.started.put_nowait(None)
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            tidied.append(await link_4.peer.request("echo", "tidied"))
        return "late"

    link_4.app.on("stubborn", stubborn)
    ref, asked = link_4.start_asking("stubborn")
    await link_4.seen.started.get()
    await link_4.call("cancel", ref=ref, reason="now")
    assert (await asked)["rejected"]["name"] == "RequestAbortedError"
    await until(lambda: link_4.peer.active == 0)
    assert tidied == ["tidied"]
    # What it returned went to nobody, and to no later request either.
    counts = await link_4.call("burst", n=10)
    assert (counts["right"], counts["wrong"]) == (10, 0)


async def test_a_cancellation_passes_through_python(link_4: Link) -> None:
    """JavaScript cancels Python's handler, which waits for JavaScript's: that one hears it, too."""
    reasons: list[tuple[Any, Callable[[dict[str, Any]], Any]]] = [
        ("just text", lambda thrown: thrown["value"]),
        ({"$error": {"message": "bored"}}, lambda thrown: {"$error": {"message": thrown["message"]}}),
    ]
    for reason, read in reasons:
        ref, asked = link_4.start_asking("ask", "hang")
        await link_4.journal("started")
        await link_4.call("cancel", ref=ref, reason=reason)
        (aborted,) = await link_4.journal("aborted")
        assert read(aborted["reason"]) == reason
        await asked
    assert link_4.peer.pending == 0


async def test_too_late_to_cancel(link_4: Link) -> None:
    """A cancellation of what is not there, or was answered, is ignored."""
    for data in ('{"i":1,"x":"late"}', '{"i":987654,"x":{"message":"late"},"_":1}', '{"i":987654,"x":null}'):
        await link_4.call("send_raw", data=data)
    await link_4.quiet()
    assert link_4.peer.ignored["cancellation of no request"] == 3
    assert link_4.peer.ignored["malformed"] == 0


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


async def test_a_failing_group_cancels_its_requests(link_4: Link) -> None:
    async def fail_together() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(link_4.peer.request("hang"))
            group.create_task(link_4.peer.request("hang"))
            await link_4.journal("started", at_least=2)
            group.create_task(link_4.peer.request("fail", "error"))

    with pytest.raises(ExceptionGroup) as raised:
        await fail_together()
    assert raised.group_contains(RemoteError, match=r"^it failed$")
    await link_4.journal("aborted", at_least=2)
    assert link_4.peer.pending == 0


# ---------------------------------------------------------------- channels that nobody asked for


async def test_a_channel_that_nobody_asked_for_is_aborted(link_4: Link, caplog: pytest.LogCaptureFixture) -> None:
    assert await link_4.peer.request("channel_make") is None
    assert "'channel_make' is an anonymous channel" in caplog.text
    with pytest.raises(UnexpectedChannel, match="'channel_make'"):
        await link_4.peer.request("channel_make", returns=int)
    closed = await link_4.journal("channel_closed", at_least=2)
    assert [entry["reason"]["message"] for entry in closed] == ["nobody asked for a channel"] * 2
    made = await link_4.journal("channel", at_least=2)
    assert [entry["channel"] for entry in made] == [entry["channel"] for entry in closed]


async def test_a_channel_that_comes_too_late_is_aborted(link_4: Link) -> None:
    asked = asyncio.create_task(link_4.peer.request("channel_make"))

    async def cancel() -> None:
        asked.cancel("bored")  # begins after the request was sent, and before its answer can be here

    await asyncio.create_task(cancel())
    with pytest.raises(asyncio.CancelledError):
        await asked
    # JavaScript's handler answered before it could be cancelled.
    await link_4.journal("channel_closed")
    assert link_4.peer.pending == 0


# ---------------------------------------------------------------- many at once


async def test_half_of_many_are_cancelled_both_ways(link_4: Link) -> None:
    """Each side has N requests in the air; every other one is cancelled, each with a reason of its own."""
    peer, seen = link_4.peer, link_4.seen
    # What will be answered goes through both sides: JavaScript's handlers wait for Python's.
    ours_answered = {k: asyncio.create_task(peer.request("ask", "gate", k)) for k in range(0, N, 2)}
    ours_cancelled = {k: asyncio.create_task(peer.of("math").request("hang")) for k in range(1, N, 2)}
    theirs_answered = {k: link_4.start_asking("gate", N + k)[1] for k in range(0, N, 2)}
    theirs_cancelled = {k: link_4.start_asking("hang", N + k, channel="math") for k in range(1, N, 2)}
    started = sorted([await seen.started.get() for _ in range(3 * N // 2)])
    assert started == sorted([*range(0, N, 2), *range(N, 2 * N)])
    await link_4.journal("started", at_least=N // 2)
    assert (peer.pending, peer.active) == (N, 3 * N // 2)

    for k, task in ours_cancelled.items():
        task.cancel(k)
    await asyncio.gather(*(link_4.call("cancel", ref=ref, reason=N + k) for k, (ref, _) in theirs_cancelled.items()))
    aborted = await link_4.journal("aborted", at_least=N // 2)
    assert [entry["reason"]["value"] for entry in aborted] == list(ours_cancelled)
    reasons = [await seen.cancelled.get() for _ in theirs_cancelled]
    assert reasons == [(N + k, N + k) for k in theirs_cancelled]
    await asyncio.wait(ours_cancelled.values())
    assert all(task.cancelled() for task in ours_cancelled.values())
    for _, asked in theirs_cancelled.values():
        assert (await asked)["rejected"]["name"] == "RequestAbortedError"

    seen.gate.set()
    assert await asyncio.gather(*ours_answered.values()) == list(ours_answered)
    answers = await asyncio.gather(*theirs_answered.values())
    assert [answer["resolved"] for answer in answers] == [N + k for k in theirs_answered]
    assert (peer.pending, seen.cancelled.empty()) == (0, True)
    state = await link_4.call("state")
    assert (state["pending"], state["active"]) == (0, 0)


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
