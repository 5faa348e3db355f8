"""`Truth`: what handlers and callers note. It survives every process, as a database would, and says what must hold."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import count, pairwise
from typing import Any

from wsrpc.testing import Simulation

__all__ = ["DETACHED", "LEASE", "Call", "Hearing", "Truth"]

DETACHED = 30.0
"""Seconds for which a server keeps a session without a connection."""
LEASE = 6.0

HARMLESS = {"clock", "reset", "forget", "slow", "cut", "isolate", "lossy engine"}
"""Faults after which every session goes on, if they do not last."""


class Call:
    """One call: how often its handler has begun, and what its caller was told."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.runs = 0
        self.told = "nothing"

    def check(self) -> None:
        assert self.runs <= 1, f"{self.name} has run {self.runs} times"
        if self.told in ("not_sent", "not_run"):
            assert not self.runs, f"{self.name} has run, and its caller was told {self.told!r}"
        if self.told in ("ran", "answered"):
            assert self.runs, f"{self.name} has not run, and its caller was told {self.told!r}"


class Hearing:
    """What one member of a room has heard, in one life."""

    def __init__(self, name: str, truth: Truth) -> None:
        self.name = name
        self._truth = truth
        self.heard: list[str | None] = []
        """The positions of the events. None where the member was told that it has missed some."""
        self.skipped: set[str] = set()
        self.texts: set[str] = set()

    def hear(self, position: str, text: str) -> None:
        truth = self._truth
        known = truth.said.setdefault(position, text)
        assert known == text, f"{text!r} and {known!r} have the same position"
        last = self.heard[-1] if self.heard else None
        assert last is None or _number(position) > _number(last) or truth.restored, (
            f"{self.name} hears {position} after {last}"
        )
        assert position not in self.heard or None in self.heard, f"{self.name} hears {position} twice"
        is_new = truth.losses[self.name] or truth.restored  # in another session, it belongs to the history
        assert text not in self.skipped or is_new, f"{self.name} hears {text!r}, which is not for it"
        self.heard.append(position)
        self.texts.add(text.partition(" x")[0])

    def missed(self) -> None:
        self.heard.append(None)

    def check(self) -> None:
        """See that nothing is missing between what was heard."""
        for before, after in pairwise(self.heard):
            if before is not None and after is not None and not (self._truth.restored or self._truth.drops_events):
                between = range(_number(before) + 1, _number(after))
                missing = [
                    position
                    for position, text in self._truth.said.items()
                    if _room(position) == _room(after) and _number(position) in between and text not in self.skipped
                ]
                assert not missing, f"{self.name} has not heard {missing}, and was not told: {self.heard}"


def _number(position: str) -> int:
    return int(position.partition("-")[0])


def _room(position: str) -> str:
    return position.rpartition(" ")[2]


class Truth:
    def __init__(self, sim: Simulation, drops_events: bool) -> None:
        self.sim = sim
        self.drops_events = drops_events
        """Whether receivers drop events, because more wait than `Limits.waiting`."""
        self.calls: dict[int, Call] = {}
        self.keyed_runs: defaultdict[str, list[str]] = defaultdict(list)
        """By key: the runs and the losses that were told, in order."""
        self.positions: dict[tuple[str, str], Any] = {}
        """By user and key: the position, the run and the number of the last item that was read."""
        self.notes: defaultdict[str, list[int]] = defaultdict(list)
        """The events that have arrived, by sender."""
        self.marks: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
        """The requests between the events of a sender: each with the number of events that had arrived."""
        self.running: Counter[str] = Counter()
        """The handlers of `watch` that run, by user and key."""
        self.kicked: dict[str, tuple[str, float, str]] = {}
        """The peers that a node has closed: the user, when, and why."""
        self.sessions: defaultdict[str, list[float]] = defaultdict(list)
        """When sessions of each user have begun."""
        self.told_kicks: set[str] = set()
        self.sent: Counter[str] = Counter()
        """How many events each sender has sent, all of which must arrive."""
        self.losses: Counter[str] = Counter()
        """How often each sender was told that its session is lost."""
        self.said: dict[str, str] = {}
        """The events of rooms, by their positions in the log."""
        self.hearings: list[Hearing] = []
        self.talks: dict[int, list[int]] = {}
        """What was heard in each conversation."""
        self.present: dict[str, str] = {}
        """The state of each user that functions of `on_presence` were told last."""
        self.last_words: list[int] = []
        """The calls with which each client has said something in the end."""
        self.finished: set[str] = set()
        self.numbers = count(1)
        kinds = {fault.kind for fault in sim.faults}
        self.restored = "restored store" in kinds
        lasting = [fault.seconds for fault in sim.faults if fault.kind not in ("clock", "reset", "forget")]
        forgotten = [fault.when for fault in sim.faults if fault.kind == "forget"]
        short = sum(lasting) < 8.0 and max(lasting, default=0.0) < 4.0
        # A session begins with the first message that arrives.
        self.is_mild = kinds <= HARMLESS and short and len(forgotten) < 2 and min(forgotten, default=9.0) > 2.0
        """Whether no session may be lost, and no call may fail but for its own timeout."""
        self.nodes_end = not kinds.isdisjoint({"kill", "power", "stop", "isolate"})
        """Whether nodes or clients end. Functions of `on_presence` may then be called at two nodes, in any order."""
        self.has_no_drops = kinds <= {"slow", "clock", "late store", "lossy engine"}

    def call(self, name: str) -> tuple[int, Call]:
        number = next(self.numbers)
        self.calls[number] = call = Call(f"{name} {number}")
        return number, call

    def begins(self, number: int) -> None:
        self.calls[number].runs += 1

    def loses(self, who: str, why: object) -> None:
        assert not self.is_mild, f"{who} has lost its session: {why}"
        self.losses[who] += 1

    def check(self) -> None:
        for call in self.calls.values():
            call.check()
        for user, when, why in self.kicked.values():
            is_back = any(when < began < when + 20.0 for began in self.sessions[user])
            untold = is_back and why not in self.told_kicks and not self.nodes_end
            assert not untold, f"{user} was closed ({why}), is back, and is not told"
        for hearing in self.hearings:
            hearing.check()
        for key, runs in self.keyed_runs.items() if not self.restored else ():
            for before, run in pairwise(runs):
                assert run == "lost" or before == "lost", f"key {key!r} has run again: {runs}"
            assert "run" in runs or "lost" not in runs or self.nodes_end, (
                f"key {key!r} has never run, and is said to be lost"
            )
        for sender, marks in self.marks.items():
            for mark, arrived in marks:
                overtaking = [note for note in self.notes[sender][:arrived] if note > mark]
                assert not overtaking, f"event {overtaking[0]} of {sender} has overtaken request {mark}"
        for sender, notes in self.notes.items():
            if sender.startswith("call "):  # every second one is a request
                notes = [note // 2 for note in notes]
            assert notes == sorted(set(notes)), f"the events of {sender} are out of order: {notes}"
            gaps = sum(after != before + 1 for before, after in pairwise(notes))
            assert gaps <= self.losses[sender] or self.drops_events, (
                f"events of {sender} are missing, which nobody was told: {notes}"
            )
        for sender, sent in self.sent.items():
            last = max(self.notes[sender], default=0)
            assert last == sent or self.losses[sender] or self.drops_events, (
                f"{sender} has sent {sent} events, and {last} have arrived"
            )

    def check_present(self, what: str, present: Iterable[object], everybody: list[str]) -> None:
        found = sorted(map(str, present))
        assert found == everybody, f"{what} sees {found}"
