"""The replay notices what differs, so that its silence means something."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from vectors.conformance.deviations import adapted
from vectors.conformance.replay import Mismatch, compare_frames, replay
from vectors.conformance.scenario import Scenario, Step, Stimulus

Done = tuple[dict[str, Any], list[Step]]


def scenario_of(*stimuli: Done) -> Scenario:
    made = [Stimulus(*next(iter(step.items())), None, tuple(reactions)) for step, reactions in stimuli]
    return Scenario("made/up", "test", (), tuple(made))


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


@pytest.mark.parametrize(
    ("number", "reactions"),
    [
        pytest.param(2, [CALLED], id="a frame too many"),
        pytest.param(1, [ANSWER], id="a frame that does not come"),
        pytest.param(2, [CALLED, {"sent": '{"i":7,"d":[2]}'}], id="another value"),
        pytest.param(2, [CALLED, {"sent": '{"i":7,"d":[true]}'}], id="true is not 1"),
        pytest.param(2, [CALLED, {"sent": '{"i":8,"d":[1]}'}], id="another id"),
        pytest.param(2, [CALLED, {**ANSWER, "socket": "s2"}], id="another socket"),
        pytest.param(2, [ANSWER], id="an outcome too many"),
        pytest.param(1, [CALLED], id="an outcome that does not come"),
        pytest.param(4, [{"outcome": {**RESOLVED["outcome"], "value": None}}], id="another result"),
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


def test_the_order_of_frames_counts() -> None:
    frames: list[tuple[str, Any]] = [("s1", {"a": ["e", 1], "c": "x"}), ("s1", {"a": ["e", 2]})]
    compare_frames(frames, [("s1", {"c": "x", "a": ["e", 1]}), frames[1]], "here")
    with pytest.raises(Mismatch):
        compare_frames(frames, frames[::-1], "here")


async def test_an_unknown_operation_or_kind_is_no_pass() -> None:
    with pytest.raises(AttributeError, match="_do_dance"):
        await replay(scenario_of(CREATE, ({"do": {"op": "dance"}}, [])))
    on = {**ON, "handler": {"id": "h1", "kind": "dance"}}
    with pytest.raises(Mismatch):
        await replay(scenario_of(CREATE, ({"do": on}, []), ({"feed": '{"a":["e",1],"i":7}'}, [CALLED, ANSWER])))


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
]


@pytest.mark.parametrize(("rule", "scenario_of_rule"), RULES, ids=[rule for rule, _ in RULES])
async def test_rules_hold_beyond_the_recordings(rule: str, scenario_of_rule: Scenario) -> None:
    expected, applied = adapted(scenario_of_rule)

    assert applied == {rule}
    assert await replay(expected)
    with pytest.raises(Mismatch):
        await replay(scenario_of_rule)


async def test_what_is_alike_is_left_alone() -> None:
    assert adapted(GOOD) == (GOOD, set())
    assert await replay(GOOD) == 5
