"""The replay notices what differs, so that its silence means something."""

from __future__ import annotations

from typing import Any

import pytest
from vectors.conformance.replay import Mismatch, replay
from vectors.conformance.scenario import Scenario, Step, deviating, scenario
from vectors.conformance.values import observed, recorded, same, to_python

from wsrpc import RemoteError


def made(*steps: Step) -> Scenario:
    return scenario("made/up", [{"do": {"op": "create", "socket": "open"}}, *steps])


def on(event: str, **handler: Any) -> Step:
    return {"do": {"op": "on", "channel": None, "event": event, "handler": {"id": "h1", **handler}}}


def called(*args: Any, signal: bool = True) -> Step:
    return {"outcome": {"type": "handler_called", "handler": "h1", "args": list(args), "signal": signal}}


def request(ref: str) -> Step:
    return {"do": {"op": "request", "channel": None, "event": "q", "args": [], "ref": ref}}


def state(pending: int) -> Step:
    return {"outcome": {"type": "state", "pending_requests": pending, "active_requests": 0, "is_connected": True}}


ANSWER = {"sent": '{"i":7,"d":[1]}'}
RESOLVED = {"outcome": {"type": "resolved", "ref": "r1", "value": 5}}
GOOD = made(
    *(on("e", kind="return_args"), {"feed": '{"a":["e",1],"i":7}'}, called(1), ANSWER),
    *(request("r1"), {"sent": '{"a":["q"],"i":1}'}, {"feed": '{"i":1,"d":5}'}, RESOLVED),
    *({"do": {"op": "inspect"}}, state(0)),
)


@pytest.mark.parametrize(
    ("number", "reactions"),
    [
        pytest.param(2, [called(1)], id="a frame too many"),
        pytest.param(1, [ANSWER], id="a frame that does not come"),
        pytest.param(2, [called(1), ANSWER, ANSWER], id="a frame that comes once, not twice"),
        pytest.param(2, [called(1), {"sent": '{"i":7,"d":[2]}'}], id="another value"),
        pytest.param(2, [called(1), {"sent": '{"i":7,"d":[true]}'}], id="true is not 1"),
        pytest.param(2, [called(1), {"sent": '{"i":8,"d":[1]}'}], id="another id"),
        pytest.param(2, [called(1), {"sent": '{"i":7,"d":[1],"_":1}'}], id="another key"),
        pytest.param(2, [called(1), {**ANSWER, "socket": "s2"}], id="another socket"),
        pytest.param(2, [called(1), {"sent": "text"}], id="no JSON"),
        pytest.param(2, [ANSWER], id="an outcome too many"),
        pytest.param(1, [called(1)], id="an outcome that does not come"),
        pytest.param(2, [called(1), called(1), ANSWER], id="an outcome that comes once, not twice"),
        pytest.param(2, [called(1, signal=False), ANSWER], id="another outcome"),
        pytest.param(3, [{"sent": '{"a":["r"],"i":1}'}], id="another request"),
        pytest.param(4, [{"outcome": {**RESOLVED["outcome"], "value": None}}], id="another result"),
        pytest.param(4, [{"outcome": {"type": "rejected", "ref": "r1", "error": 5}}], id="a rejection"),
        pytest.param(5, [state(1)], id="another state"),
    ],
)
async def test_what_differs_is_noticed(number: int, reactions: list[Step]) -> None:
    assert await replay(GOOD) == 5

    with pytest.raises(Mismatch, match=f"made/up, stimulus {number}"):
        await replay(deviating(GOOD, {str(number): reactions}))


async def test_the_order_of_frames_counts_and_that_of_keys_does_not() -> None:
    emits = {"op": "emit", "channel": "x", "event": "e", "args": [1]}
    relayed = [called(1, signal=False), called(2, signal=False)]
    burst = [on("relay", kind="none", do=[emits]), {"feed_burst": ['{"a":["relay",1]}', '{"a":["relay",2]}']}]

    await replay(made(*burst, *relayed, {"sent": '{"c":"x","a":["e",1]}'}, {"sent": '{"a":["e",1],"c":"x"}'}))
    with pytest.raises(Mismatch):
        await replay(made(*burst, *relayed, {"sent": '{"c":"x","a":["e",2]}'}, {"sent": '{"a":["e",1],"c":"x"}'}))


async def test_an_answer_to_another_request_is_noticed() -> None:
    first, second = [request("r1"), {"sent": '{"a":["q"],"i":1}'}], [request("r2"), {"sent": '{"a":["q"],"i":2}'}]
    pending = {"outcome": {"type": "pending", "ref": "r2"}}

    await replay(made(*first, *second, {"feed": '{"i":1,"d":5}'}, RESOLVED, pending))
    for number, reactions in ((2, [RESOLVED, pending]), (1, [RESOLVED])):
        with pytest.raises(Mismatch):
            await replay(made(*first, *second, {"feed": f'{{"i":{number},"d":5}}'}, *reactions))


async def test_an_unknown_operation_or_kind_is_no_pass() -> None:
    with pytest.raises(AttributeError, match="_do_dance"):
        await replay(made({"do": {"op": "dance"}}))
    with pytest.raises(Mismatch):
        await replay(made(on("e", kind="dance"), {"feed": '{"a":["e",1],"i":7}'}, called(1), ANSWER))


def test_codes_and_absent_results_are_all_that_is_passed_over() -> None:
    assert same(recorded({"$undefined": True}), None)
    assert not same({"a": None}, {})
    assert not same("1", 1)
    assert not same([1], [1, 2])
    assert same(1.0, 1)
    assert same(2**53 + 1, 2**53)
    assert to_python({"a": {"$undefined": True}, "b": [{"$undefined": True}]}) == {"b": [None]}
    error = RemoteError("m", "wsrpc.unknown_event", None, {"name": "N", "k": 1})
    assert observed(error) == {"$error": {"name": "N", "message": "m", "props": {"k": 1}}}
    assert observed(RemoteError("m", 5)) == {"$error": {"name": "Error", "message": "m", "props": {"code": 5}}}
