"""A page's client does what ws-wrapper 4.3.1 was recorded to do, for what both have.

The recordings, and what wsrpc does otherwise on purpose, are those of ``tests/vectors``.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from vectors.conformance.deviations import for_wsrpc
from vectors.conformance.replay import Ids, compare_frames, compare_outcomes, expected_frames, expected_outcomes
from vectors.conformance.replay import _content as content_of
from vectors.conformance.scenario import Scenario, load, operations
from vectors.conformance.values import recorded

from interop.node import JS, find_node

DATA = Path(__file__).parents[1] / "tests" / "vectors" / "data"
SCENARIOS = load(DATA) + load(DATA / "further")

LACKS = {
    "use": "a page has no middleware",
    "once": "a handler is removed by the function that `on` returns",
    "iter_open": "a channel of `open` is no iterable: `stream` opens and reads in one step",
    "iter_next": "see iter_open",
    "for_await": "see iter_open",
    "close_channel": "a channel ends for both sides",
    "socket_open": "a client dials by itself",
    "socket_close": "see socket_open",
    "socket_state": "see socket_open",
    "bind": "see socket_open",
    "bind_invalid": "see socket_open",
    "of_invalid": "the type says what a name is",
    "on_local": "there is `status` instead of events of the connection",
    "abort": "there is `close` instead",
    "disconnect": "see abort",
    "close": "see abort",
    "send_raw": "a page has no raw messages",
    "release": "only for generators that wait, which iter_open reads",
}
"""Operations that a page's client has not, so that their scenarios are not played."""


DIFFERS = {
    "A cancelled call is answered at once, although its handler may run on: nobody waits for it.": """
        cancel/inbound-null cancel/inbound-then-response requests/active-id-reuse pair/cancel/b pair/timeout/b
        anon/active-at-abort anon/cancel-on-channel pair/anon-pending-request/b pair/anon-cancel-on-channel/b""",
    "Error objects are sent with their `code` and `data`, as those of Python are.": """
        requests/reject-sync requests/reject-async cancel/error-reason pair/rpc-basic/b anon/abort-local-requestor
        anon/abort-local-handler""",
    "The first handler answers, and one that throws does not keep the others from an event.": """
        requests/multiple-listeners events/multiple-listeners""",
    "A request that cannot be encoded is rejected, and a result that cannot be rejects the caller's request.": """
        events/emit-unserializable requests/unserializable-result""",
    "Null stays null, also if it is flagged as an error.": "requests/reject-odd-flagged",
    "The reason of a plain `abort()` of a signal is that of the runtime.": "cancel/no-reason",
    "`this.channel()` opens the channel at once; an event has none.": """
        anon/emit-before-returned anon/created-not-returned anon/as-event pair/anon-abort-before-return/b
        pair/anon-abort-error-before-return/b pair/anon-not-returned/b""",
    "What still comes on a channel that has ended brings no further abort, on whichever side it ended.": """
        anon/abort-remote-handler anon/abort-remote-requestor anon/double-abort-same-id pair/stream-full/b
        pair/stream-again/b iterator/iterable-sync-generator iterator/iterable-abort-before-start""",
    "The end of a channel ends the requests on it; there is no message for each.": """
        anon/pending-at-abort anon/pending-at-remote-abort anon/early-local-abort pair/anon-pending-request/a""",
    "The text of a rejection does not name the channel, and it goes before the abort.": """
        anon/requests-handler anon/requests-requestor anon/reserved-names anon/early-request anon/off anon/unknown-h
        pair/anon-session/a""",
    "Ids are compared, not converted: nobody sends others.": """
        anon/h-normalisation anon/h-string-requestor anon/h-weird ignored/bad-request-ids ignored/zero-id""",
    "A request on an anonymous channel opens no other channel.": "anon/nested-requestor pair/anon-nested/a",
    "A channel that nobody asked for is aborted with ws-wrapper's text for no reason.": """
        anon/create-after-cancel requests/resolve-null-sync pair/null-result/a pair/null-and-channel/a
        pair/anon-cancel-before-return/a pair/anon-cancel-crosses-channel/a""",
    "A stream that ends by throwing nothing is aborted with ws-wrapper's text for no reason.": """
        iterator/iterable-throws-midway iterator/iterable-throws-undefined pair/stream-fails-null/b""",
    "A signal aborts the channel of a call; the caller gets an error that has the reason as its cause.": """
        anon/signal-inherited""",
    "`open` has an error of its own for an answer that is no channel.": "anon/create-requestor",
    "No name is reserved for a handler or a request.": "channels/reserved-names-main",
    "A named channel cannot be ended.": "channels/abort-named-channel",
    "1e400 is infinite, which this test's notation cannot say.": "events/receive-numbers",
}
"""What differs from both ws-wrapper and wsrpc in Python, and why."""

EXPLAINED = {name for names in DIFFERS.values() for name in names.split()}


def lacks(scenario: Scenario) -> bool:
    create = scenario.stimuli[0].value
    handlers = [
        operation["handler"] for operation in operations(scenario) if isinstance(operation.get("handler"), dict)
    ]
    return (
        any(operation["op"] in LACKS for operation in operations(scenario))
        or any(
            handler["kind"] == "deferred_channel" or handler.get("iterable", {}).get("kind") == "value"
            for handler in handlers
        )
        or create["socket"] != "open"
        or "codec" in create
    )


PLAYED = [scenario for scenario in SCENARIOS if not lacks(scenario)]


class Player:
    """The running program. It plays one scenario after another, because starting Node takes longer than playing one."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def play(self, kind: str, value: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"kind": kind, "value": value}) + "\n")
        self._process.stdin.flush()
        told: dict[str, Any] = json.loads(self._process.stdout.readline())
        return told


@pytest.fixture(scope="module")
def player() -> Iterator[Player]:
    command = [find_node(), str(JS / "page_client_vectors.mjs")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8") as process:
        yield Player(process)
        process.kill()


def without_context(content: Any) -> Any:
    """A message without the remaining time of its caller, which ws-wrapper ignores."""
    return {key: part for key, part in content.items() if key != "ctx"} if isinstance(content, dict) else content


def differences(scenario: Scenario, player: Player) -> list[str]:
    ids, found = Ids(), []
    player.play("begin", None)
    for number, stimulus in enumerate(scenario.stimuli):
        value = stimulus.value
        if stimulus.kind == "feed":
            value = ids.to_feed(value)
        elif stimulus.kind == "feed_burst":
            value = list(map(ids.to_feed, value))
        elif stimulus.op == "request":
            value = {**value, "opens": value["ref"] in scenario.opens}
        told = player.play(stimulus.kind, value)
        if stimulus is scenario.stimuli[-1]:
            told["outcomes"] += player.play("pending", None)["outcomes"]
        reactions = tuple(step for step in stimulus.reactions if step.get("outcome", {}).get("type") != "state")
        frames = expected_frames(reactions)
        sent = [("s1", without_context(content_of(text))) for text in told["sent"]]
        where = f"stimulus {number}, {json.dumps(stimulus.value)[:150]}"
        outcomes = [{key: recorded(part) for key, part in outcome.items()} for outcome in told["outcomes"]]
        try:  # the ids of odd frames may be lists
            ids.learn([content for _, content in frames], [content for _, content in sent])
            compare_frames(frames, [(socket, ids.from_sent(content)) for socket, content in sent], where)
            compare_outcomes(expected_outcomes(reactions), outcomes, where)
        except (AssertionError, TypeError) as mismatch:
            found.append(str(mismatch))
    return found


@pytest.mark.parametrize("scenario", PLAYED, ids=lambda scenario: f"{scenario.source}:{scenario.name}")
def test_scenario(scenario: Scenario, player: Player) -> None:
    """It is played as by ws-wrapper or by wsrpc in Python, or a row says why not."""
    found = differences(for_wsrpc(scenario)[0], player) and differences(scenario, player)
    assert bool(found) == (scenario.name in EXPLAINED), found


def test_enough_is_played() -> None:
    played = {scenario.name for scenario in PLAYED}
    assert len(PLAYED) >= 199
    assert played >= EXPLAINED
    assert {operation["op"] for scenario in SCENARIOS for operation in operations(scenario)} >= LACKS.keys()
