"""The replay notices what differs, so that its silence means something."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from vectors.conformance.adapting import adapted
from vectors.conformance.connection_rules import QUEUE_FULL
from vectors.conformance.pairs import play
from vectors.conformance.replay import Mismatch, replay
from vectors.conformance.scenario import Scenario, Step, Stimulus, openings
from vectors.conformance.values import observed, recorded, same, to_python

from wsrpc import RemoteError


def scenario_of(
    *stimuli: tuple[dict[str, Any], list[Step]], name: str = "made/up", counterpart: str | None = None
) -> Scenario:
    made = []
    for step, reactions in stimuli:
        ((kind, value),) = step.items()
        made.append(Stimulus(kind, value, None, tuple(reactions)))
    steps = [step for stimulus, reactions in stimuli for step in (stimulus, *reactions)]
    scenario = Scenario(name, "test", (), tuple(made), counterpart, tuple(steps))
    return replace(scenario, opens=openings(scenario, {}))


Done = tuple[dict[str, Any], list[Step]]

CREATE: Done = ({"do": {"op": "create", "socket": "open"}}, [])
ON = {"op": "on", "channel": None, "event": "e", "handler": {"id": "h1", "kind": "return_args"}}
CALLED = {"outcome": {"type": "handler_called", "handler": "h1", "args": [1], "signal": True}}
ANSWER = {"sent": '{"i":7,"d":[1]}'}
REQUEST: dict[str, Any] = {"op": "request", "channel": None, "event": "q", "args": [], "ref": "r1"}
RESOLVED = {"outcome": {"type": "resolved", "ref": "r1", "value": 5}}

GOOD = scenario_of(
    CREATE,
    ({"do": ON}, []),
    ({"feed": '{"a":["e",1],"i":7}'}, [CALLED, ANSWER]),
    ({"do": REQUEST}, [{"sent": '{"a":["q"],"i":1}'}]),
    ({"feed": '{"i":1,"d":5}'}, [RESOLVED]),
    (
        {"do": {"op": "inspect"}},
        [{"outcome": {"type": "state", "pending_requests": 0, "active_requests": 0, "is_connected": True}}],
    ),
)


def doctored(number: int, *reactions: Step) -> Scenario:
    stimuli = list(GOOD.stimuli)
    stimuli[number] = replace(stimuli[number], reactions=reactions)
    return GOOD.having(stimuli)


async def test_a_good_scenario_passes() -> None:
    assert await replay(GOOD) == 5


@pytest.mark.parametrize(
    ("number", "reactions"),
    [
        pytest.param(2, [CALLED], id="a frame too many"),
        pytest.param(1, [ANSWER], id="a frame that does not come"),
        pytest.param(2, [CALLED, ANSWER, ANSWER], id="a frame that comes once, not twice"),
        pytest.param(2, [CALLED, {"sent": '{"i":7,"d":[2]}'}], id="another value"),
        pytest.param(2, [CALLED, {"sent": '{"i":7,"d":[true]}'}], id="true is not 1"),
        pytest.param(2, [CALLED, {"sent": '{"i":8,"d":[1]}'}], id="another id"),
        pytest.param(2, [CALLED, {"sent": '{"i":7,"d":[1],"_":1}'}], id="another key"),
        pytest.param(2, [CALLED, {**ANSWER, "socket": "s2"}], id="another socket"),
        pytest.param(2, [CALLED, {"sent": "text"}], id="no JSON"),
        pytest.param(2, [ANSWER], id="an outcome too many"),
        pytest.param(1, [CALLED], id="an outcome that does not come"),
        pytest.param(2, [CALLED, CALLED, ANSWER], id="an outcome that comes once, not twice"),
        pytest.param(2, [{"outcome": {**CALLED["outcome"], "signal": False}}, ANSWER], id="another outcome"),
        pytest.param(3, [{"sent": '{"a":["r"],"i":1}'}], id="another request"),
        pytest.param(4, [{"outcome": {**RESOLVED["outcome"], "value": None}}], id="another result"),
        pytest.param(4, [{"outcome": {"type": "rejected", "ref": "r1", "error": 5}}], id="a rejection"),
        pytest.param(
            5,
            [{"outcome": {"type": "state", "pending_requests": 1, "active_requests": 0, "is_connected": True}}],
            id="another state",
        ),
    ],
)
async def test_what_differs_is_noticed(number: int, reactions: list[Step]) -> None:
    with pytest.raises(Mismatch, match=f"made/up, stimulus {number}"):
        await replay(doctored(number, *reactions))


async def test_the_order_of_frames_counts_and_that_of_keys_does_not() -> None:
    first, second = {"sent": '{"a":["e",1],"c":"x"}'}, {"sent": '{"c":"x","a":["e",2]}'}
    burst = {"feed_burst": ['{"a":["relay",1]}', '{"a":["relay",2]}']}
    relays = [
        {"outcome": {"type": "handler_called", "handler": "h", "args": [number], "signal": False}} for number in (1, 2)
    ]
    emits = {"op": "emit", "channel": "x", "event": "e", "args": [1]}
    handler = {"id": "h", "kind": "none", "do": [emits]}
    on = {"op": "on", "channel": None, "event": "relay", "handler": handler}

    again = {"sent": first["sent"]}
    await replay(scenario_of(CREATE, ({"do": on}, []), (burst, [*relays, first, again])))
    with pytest.raises(Mismatch):
        await replay(scenario_of(CREATE, ({"do": on}, []), (burst, [*relays, second, first])))


async def test_an_answer_to_another_request_is_noticed() -> None:
    second = {**REQUEST, "ref": "r2"}
    requests = (
        ({"do": REQUEST}, [{"sent": '{"a":["q"],"i":1}'}]),
        ({"do": second}, [{"sent": '{"a":["q"],"i":2}'}]),
    )
    pending = {"outcome": {"type": "pending", "ref": "r2"}}

    await replay(scenario_of(CREATE, *requests, ({"feed": '{"i":1,"d":5}'}, [RESOLVED, pending])))
    with pytest.raises(Mismatch):
        await replay(scenario_of(CREATE, *requests, ({"feed": '{"i":2,"d":5}'}, [RESOLVED, pending])))
    with pytest.raises(Mismatch, match="pending"):
        await replay(scenario_of(CREATE, *requests, ({"feed": '{"i":1,"d":5}'}, [RESOLVED])))


async def test_an_unknown_operation_or_kind_is_no_pass() -> None:
    with pytest.raises(AttributeError, match="_do_dance"):
        await replay(scenario_of(CREATE, ({"do": {"op": "dance"}}, [])))
    on = {**ON, "handler": {"id": "h1", "kind": "dance"}}
    with pytest.raises(Mismatch):
        await replay(scenario_of(CREATE, ({"do": on}, []), ({"feed": '{"a":["e",1],"i":7}'}, [CALLED, ANSWER])))


async def test_a_pair_whose_outcome_differs_is_noticed() -> None:
    left = scenario_of(
        CREATE,
        ({"do": REQUEST}, [{"sent": '{"a":["q"],"i":1}'}]),
        ({"feed": '{"i":1,"d":5}'}, [RESOLVED]),
        name="l",
        counterpart="r",
    )
    on = {"op": "on", "channel": None, "event": "q", "handler": {"id": "h", "kind": "return", "value": 5}}
    called = {"outcome": {"type": "handler_called", "handler": "h", "args": [], "signal": True}}
    right = scenario_of(
        CREATE,
        ({"do": on}, []),
        ({"feed": '{"a":["q"],"i":1}'}, [called, {"sent": '{"i":1,"d":5}'}]),
        name="r",
        counterpart="l",
    )

    assert await play(left, right, (left, right)) == 2
    wrong = left.having([*left.stimuli[:-1], replace(left.stimuli[-1], reactions=())])
    with pytest.raises(Mismatch, match="not expected"):
        await play(left, right, (wrong, right))


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


OPENED: Done = (
    {"feed": '{"i":1,"h":1}'},
    [{"outcome": {"type": "resolved", "ref": "r1", "value": {"$channel": "r1"}}}],
)
ASKS: Done = ({"do": REQUEST}, [{"sent": '{"a":["q"],"i":1}'}])


def serving(handler: dict[str, Any], event: str = "q") -> Done:
    return {"do": {**ON, "event": event, "handler": {"id": "h1", **handler}}}, []


def test_what_asks_for_a_channel() -> None:
    used: Done = ({"do": {"op": "emit", "channel": {"ref": "r1"}, "event": "x", "args": []}}, [])
    resolved = ({"feed": '{"i":1,"d":5}'}, [RESOLVED])
    opens = scenario_of(CREATE, ASKS, OPENED, counterpart="other")
    nulls = scenario_of(CREATE, serving({"kind": "return", "value": None}), name="other")
    makes = scenario_of(CREATE, serving({"kind": "channel"}), name="other")
    streams = scenario_of(CREATE, serving({"kind": "iterable", "iterable": {"kind": "list", "items": []}}))
    inner = {"op": "on", "event": "q", "handler": {"id": "h2", "kind": "async_channel"}}
    nested = scenario_of(CREATE, serving({"kind": "none", "do": [inner]}, "other"))
    elsewhere = scenario_of(CREATE, serving({"kind": "channel"}, "other"))

    assert openings(GOOD, {}) == frozenset()
    assert openings(scenario_of(CREATE, ASKS, resolved), {}) == frozenset()
    assert openings(scenario_of(CREATE, ASKS, used), {}) == {"r1"}
    assert openings(opens, {}) == {"r1"}
    assert openings(opens, {"other": nulls}) == frozenset()
    assert openings(opens, {"other": elsewhere}) == frozenset()
    for other in (makes, streams, nested):
        assert openings(opens, {"other": other}) == {"r1"}


RULES: list[tuple[str, Scenario]] = [
    (
        "event names",
        scenario_of(
            CREATE,
            ({"do": {**ON, "event": "5"}}, []),
            ({"feed": '{"a":[5,1],"i":7}'}, [CALLED, ANSWER]),
            ({"feed": '{"a":[null]}'}, []),
            ({"feed": '{"a":[5,1]}'}, [{"outcome": {**CALLED["outcome"], "signal": False}}]),
        ),
    ),
    (
        "late cancellations",
        scenario_of(
            CREATE,
            ({"do": REQUEST}, [{"sent": '{"a":["q"],"i":1}'}]),
            ({"feed": '{"i":1,"x":"too late"}'}, [{"outcome": {**RESOLVED["outcome"], "value": {"$undefined": True}}}]),
            ({"feed": '{"i":1,"d":5}'}, []),
        ),
    ),
    (
        "offline queue",
        scenario_of(
            ({"do": {"op": "create", "socket": "none"}}, []),
            *(({"do": {"op": "emit", "channel": None, "event": "e", "args": [n]}}, []) for n in range(10)),
            (
                {"do": REQUEST},
                [{"outcome": {"type": "threw", "op": "request", "error": {"$error": {"message": QUEUE_FULL}}}}],
            ),
            (
                {"do": {"op": "inspect"}},
                [{"outcome": {"type": "state", "pending_requests": 1, "active_requests": 0, "is_connected": False}}],
            ),
            ({"do": {"op": "bind", "socket": "open"}}, [{"sent": f'{{"a":["e",{n}]}}'} for n in range(10)]),
        ),
    ),
    (
        "drops",
        scenario_of(
            CREATE,
            ({"do": {**ON, "handler": {"id": "h1", "kind": "deferred", "ref": "d1"}}}, []),
            ({"feed": '{"a":["e",1],"i":7}'}, [CALLED]),
            ({"do": {"op": "socket_close", "code": 1001, "reason": "bye"}}, []),
            ({"do": {"op": "bind", "socket": "open"}}, []),
            ({"do": {"op": "settle", "ref": "d1", "resolve": 1}}, [{**ANSWER, "socket": "s2"}]),
        ),
    ),
    (
        "late throws",
        scenario_of(
            CREATE,
            (
                {"do": {"op": "use", "channel": None, "middleware": {"id": "m1", "kind": "next_then_throw"}}},
                [],
            ),
            ({"do": ON}, []),
            (
                {"feed": '{"a":["e",1],"i":7}'},
                [
                    {"outcome": {"type": "middleware_called", "middleware": "m1", "event": "e", "args": [1]}},
                    CALLED,
                    ANSWER,
                ],
            ),
        ),
    ),
    (
        "reserved names",
        scenario_of(
            CREATE,
            (
                {"do": {"op": "emit", "channel": None, "event": "error", "args": []}},
                [{"outcome": {"type": "returned", "value": True}}],
            ),
        ),
    ),
]


@pytest.mark.parametrize(("rule", "scenario_of_rule"), RULES, ids=[rule for rule, _ in RULES])
async def test_rules_hold_beyond_the_recordings(rule: str, scenario_of_rule: Scenario) -> None:
    expected, applied = adapted(scenario_of_rule)

    assert applied == {rule}
    await replay(expected)
    with pytest.raises(Mismatch):
        await replay(scenario_of_rule)


def test_rules_leave_alone_what_is_alike() -> None:
    assert adapted(GOOD) == (GOOD, set())
