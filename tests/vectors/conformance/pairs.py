"""Two Python peers that play both halves of a recorded session against each other."""

from __future__ import annotations

import re
from itertools import takewhile
from typing import Any

from wsrpc.testing import MemoryTransport, memory_transports

from .mirror import Mirror, idle
from .replay import compare_outcomes, expected_outcomes
from .scenario import STIMULI, Scenario, Step


class Half:
    """One side: its mirror, its end of the connection, and how far its recording has been followed."""

    def __init__(self, scenario: Scenario, end: MemoryTransport, *, dialer: bool) -> None:
        self.scenario = scenario
        self.end = end
        self.other: Half
        self._steps: list[Step] = list(scenario.steps)
        self._dialer = dialer
        self._sent = 0
        self._fed = 0
        self.mirror: Mirror | None = None

    @property
    def done(self) -> bool:
        return not self._steps

    async def advance(self) -> bool:
        """Follow the recording until a message was sent, or until one arrives that the other side has not sent yet.

        So each side hears of a message before the other goes on, except where both recordings say that something was
        sent before that: then they cross, because a message is held back until the recording has it arrive.
        """
        moved = False
        while self._steps:
            step = self._steps[0]
            if "feed" in step and self._fed == self.other._sent:
                break
            self._steps.pop(0)
            moved = True
            if "do" in step:
                await self._do(step["do"])
            elif "sent" in step:
                self._sent += 1
                break
            elif "feed" in step:
                self._fed += 1
                await _let_arrive(self.other.end)
                if not self._sends_next():
                    # Whatever was sent is what JavaScript does not send, an answer to a stream's item: it must not
                    # wait until the recording has something else arrive.
                    await _let_arrive(self.end)
        return moved

    def _sends_next(self) -> bool:
        """Whether a message was sent in answer, according to the recording."""
        reactions = takewhile(lambda step: not step.keys() & STIMULI, self._steps)
        return any("sent" in step for step in reactions)

    async def _do(self, operation: dict[str, Any]) -> None:
        if operation["op"] == "create":
            self.mirror = Mirror(
                operation, opens=self.scenario.opens, dialer=self._dialer, connect=lambda name: self.end
            )
        else:
            assert self.mirror is not None
            self.mirror.do(operation)
        await idle()


async def _let_arrive(end: MemoryTransport) -> None:
    end.release()
    await idle()
    end.hold()


async def play(left: Scenario, right: Scenario, expected: tuple[Scenario, Scenario]) -> int:
    """Play both halves on connected peers, and compare the outcomes of each with those expected.

    Returns how many outcomes were compared.

    Raises:
        Mismatch: where they differ.
    """
    ends = memory_transports()
    halves = Half(left, ends[0], dialer=True), Half(right, ends[1], dialer=False)
    halves[0].other, halves[1].other = halves[1], halves[0]
    for end in ends:
        end.hold()
    try:
        while any([await half.advance() for half in halves]):
            pass
        assert halves[0].done and halves[1].done, "the recordings of the two halves do not fit"
        for end in ends:
            end.release()
        await idle()
        compared = 0
        for half, wanted in zip(halves, expected, strict=True):
            assert half.mirror is not None
            half.mirror.log_pending()
            outcomes = [outcome for stimulus in wanted.stimuli for outcome in expected_outcomes(stimulus.reactions)]
            compare_outcomes(_alike(outcomes), _alike(half.mirror.outcomes), wanted.name)
            compared += len(outcomes)
        return compared
    finally:
        for half in halves:
            if half.mirror is not None:
                await half.mirror.finish()


_ID = re.compile(r"(?<=channel ')[0-9]+(?=')")
_NOBODYS = re.compile(r"Anonymous channel '1' does not exist|nobody asked for a channel")


def _alike(value: Any) -> Any:
    """Without what two wsrpc peers say otherwise: ids of channels, and how they learn that a channel is nobody's.

    JavaScript says so when something arrives on it, and Python when the channel itself does.
    """
    if isinstance(value, str):
        return _NOBODYS.sub("no such channel", _ID.sub("1", value))
    if isinstance(value, list):
        return [_alike(item) for item in value]
    return {key: _alike(item) for key, item in value.items()} if isinstance(value, dict) else value
