"""What Go sends that others do not, and what becomes of values, errors and ids on the way, in both roles."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from interop.peers import Link, until
from wsrpc import RemoteError, RpcError

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_ids_of_0_and_below(go_link: Link) -> None:
    """Go answers them as any other; here they run nothing, settle nothing, and harm nobody."""
    ran: list[Any] = []
    go_link.app.on("run", lambda *args: ran.append(args))
    asked = asyncio.create_task(go_link.peer.request("ask", "gate", "mine"))
    assert await go_link.seen.started.get() == "mine"
    for i in (0, -1, -(2**40)):
        await go_link.call("send_raw", data=json.dumps({"i": i, "a": ["run", i]}))
        await go_link.call("send_raw", data=json.dumps({"i": i, "d": "wrong"}))
        await go_link.call("send_raw", data=json.dumps({"i": i, "h": 1}))
        await go_link.call("send_raw", data=json.dumps({"i": i, "x": "wrong"}))
        go_link.transport.send(json.dumps({"i": i, "a": ["add", 1, 2]}).encode())
    await go_link.quiet()
    assert await go_link.peer.request("add", 1, 2) == 3
    assert ran == []
    assert go_link.peer.connected
    go_link.seen.gate.set()
    assert await asked == "mine"


async def test_a_newline_after_a_message(go_link: Link) -> None:
    for k, text in enumerate(['{"a":["log",%d]}\n', '\n {"a":["log",%d]} \r\n\n', '{"a":["log",%d]}']):
        await go_link.call("send_raw", data=text % k)
        assert await go_link.seen.events.get() == (None, [k])
    assert go_link.peer.ignored.total() == 0


async def test_a_rejection_with_null(go_link: Link) -> None:
    """Go would take it for success, and sends none itself."""
    agent = go_link.agent
    await agent.call("set", messages=True)
    for text in ('{"i":%d,"e":null}', '{"i":%d,"e":null,"_":true}', '{"i":%d,"e":null,"d":5}'):
        asked = asyncio.create_task(go_link.peer.request("hang"))
        (message,) = await go_link.journal("message")
        await go_link.call("send_raw", data=text % message["data"]["i"])
        with pytest.raises(RemoteError, match=r"^Error$"):
            await asked
    await agent.call("set", messages=False)
    # A value of None that is raised here is a rejection there, too.
    assert (await go_link.ask_in_vain("fail", "null"))["message"] == "Error"


async def test_errors_on_their_way_to_go(go_link: Link) -> None:
    """Of an error its text arrives, of a plain value only text."""
    go_link.app.on("value", lambda: raise_(RpcError.of_value({"why": 1})))
    for event, args, text in [
        ("fail", ["rpc"], "it failed"),
        ("fail", ["string"], "just text"),
        ("value", [], "response error is not a string"),
        ("fail", ["internal"], "internal error"),
        ("nonesuch", [], "No event listener for 'nonesuch'"),
    ]:
        thrown = await go_link.ask_in_vain(event, *args)
        assert (thrown["message"], thrown["props"]) == (text, {})


def raise_(error: Exception) -> None:
    raise error


async def test_answers_that_go_does_not_wait_for(go_link: Link) -> None:
    """Late answers and cancellations settle nothing: ids of the two sides never meet."""
    for text in ('{"i":1,"x":"late"}', '{"i":1,"d":"wrong"}', '{"i":2147483648,"d":"wrong"}', '{"h":7,"x":"over"}'):
        await go_link.call("send_raw", data=text)
        go_link.transport.send(text.encode())
    assert await go_link.peer.request("echo", 1) == 1  # Go has read them all, before it asks anything as number 1
    await go_link.quiet()
    counts, *answers = await asyncio.gather(
        go_link.call("burst", n=200, event="add"), *(go_link.peer.request("add", k, 1) for k in range(200))
    )
    assert (counts["right"], counts["wrong"], counts["failed"]) == (200, 0, 0)
    assert answers == list(range(1, 201))


async def test_numbers(go_link: Link) -> None:
    """Go's handlers that take `any` get doubles, which it writes as JavaScript does."""
    for sent, arrives in [
        (2**53 + 1, 2**53),
        (2**63, 9223372036854776000),
        (2**64, 18446744073709552000),
        (10**20, 10**20),
        (10**21, 1e21),
        (1.0, 1),
        (0.5, 0.5),
        (5e-324, 5e-324),
    ]:
        got = await go_link.peer.request("echo", sent)
        assert (got, type(got)) == (arrives, type(arrives))
    assert await go_link.ask("echo", 2**53 + 1) == 2**53
    # What is not decoded on the way, as an event's arguments in the journal here, is exact.
    await go_link.peer.emit("log", 2**70)
    assert (await go_link.journal("event"))[0]["args"] == [2**70]


async def test_a_whole_float_is_no_int(go_link: Link) -> None:
    """Go's decoder takes no "2.0" for an int, and JavaScript writes 2."""
    with pytest.raises(RemoteError, match=r"cannot unmarshal number 2\.0 into Go value of type int"):
        await go_link.peer.request("blob", 2.0)
    assert await go_link.peer.request("blob", int(2.0)) == "xx"
    received: list[Any] = []
    go_link.app.on("received", lambda value: received.append(value))
    await go_link.tell("received", 2.0)
    await go_link.quiet()
    assert (received, type(received[0])) == ([2], int)


async def test_reserved_names_from_outside(go_link: Link) -> None:
    """Go looks such events up like any other, finds handlers of its own, and does not run them."""
    for event in ("open", "close", "error", "message"):
        go_link.transport.send(json.dumps({"i": 1, "a": [event, {}]}).encode())
        go_link.transport.send(json.dumps({"a": [event, {}]}).encode())
    assert await go_link.peer.request("add", 1, 2) == 3
    assert (await go_link.call("events", kind="close")) == []
    await until(lambda: go_link.peer.ignored["response to no request"] == 4)
