"""`Truth`: what handlers and callers note. It survives every process, as a database would, and says what must hold."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Generator, Iterable
from contextlib import contextmanager
from itertools import count, pairwise
from math import inf
from typing import Any, NamedTuple

from wsrpc import CloseInfo, Context, Limits, Peer
from wsrpc._core.api.peer import current_of
from wsrpc.cluster._nodes.directory import NODE_TIMEOUT
from wsrpc.testing import Simulation

__all__ = [
    "BUSY",
    "DETACHED",
    "LEASE",
    "NODES",
    "OF_CLIENTS",
    "UNNOTICED",
    "Call",
    "Emission",
    "Hearing",
    "Truth",
    "check_counts",
]

NODES = "node-0", "node-1", "node-2"

DETACHED = 30.0
"""Seconds for which a server keeps a session without a connection."""
LEASE = 6.0
LOG = 1024 * 1024
"""Bytes that the store keeps of the events of a room."""

HARMLESS = {"clock", "reset", "flap", "break", "forget", "slow", "cut", "isolate", "pause", "lossy engine"}
"""Faults after which every session goes on, if they do not last."""
LOUD = {"clock", "reset", "flap", "break", "lossy engine"}
"""Faults that are noticed at once. An answer of the store that is lost may not be: see `ANSWER_TIMES`."""
AT_ONCE = {"clock", "reset", "forget", "lossy engine"}
"""Faults that do not last."""
UNNOTICED = {"slow", "clock"}
"""Faults that end no connection."""
BUSY = {*UNNOTICED, "pause"}
"""Faults after which the other nodes still have the sessions."""
ENDS = {"kill", "power"}
"""Faults that end a process at once."""
OF_CLIENTS = {"pause", "clock", "slow", "reset", "flap", "break", "forget"}
"""Faults after which the nodes still hear each other."""


class Call:
    """One call: how often its handler has begun, and what its caller was told."""

    def __init__(self, name: str, by: str) -> None:
        self.name, self.by = f"{name} of {by}", by
        self.runs = 0
        self.told = "nothing"
        self.ended = inf
        """When its caller was told, or has given up."""
        self.running: tuple[str, str] | None = None
        """The process, and its life, in which the handler runs."""

    def check(self) -> None:
        assert self.runs <= 1, f"{self.name} has run {self.runs} times"
        if self.told in ("not_sent", "not_run"):
            assert not self.runs, f"{self.name} has run, and its caller was told {self.told!r}"
        if self.told in ("ran", "answered"):
            assert self.runs, f"{self.name} has not run, and its caller was told {self.told!r}"


class Emission(NamedTuple):
    """An event that was emitted to a room, and stored."""

    room: str
    began: float
    size: int


class Hearing:
    """What one member of a room has heard, in one life."""

    def __init__(self, name: str, room: str, truth: Truth) -> None:
        self.name, self.room = name, room
        self._truth = truth
        self.since: float | None = None
        """When it has become a member."""
        self.places: list[tuple[str, float]] = []
        """The positions that it has heard, and when."""
        self.until: float | None = None
        """When it had to have heard everything. None if it has ended before."""
        self.told: list[float] = []
        """When it was told that it has missed something."""
        self.heard: list[str | None] = []
        """The positions of the events. None where the member was told that it has missed some."""
        self.skipped: set[str] = set()
        self.texts: set[str] = set()

    def hear(self, ctx: Context, text: str) -> None:
        truth, position = self._truth, f"{ctx.position} {ctx.room}"
        self.places.append((str(ctx.position), truth.sim.now))
        known = truth.said.setdefault(position, text)
        assert known == text, f"{text!r} and {known!r} have the same position"
        assert text.partition(" x")[0] not in truth.unsaid, f"{text!r} was not emitted, as its sender was told"
        last = self.heard[-1] if self.heard else None
        assert last is None or _number(position) > _number(last) or truth.restored or truth.begins_anew, (
            f"{self.name} hears {position} after {last}"
        )
        assert position not in self.heard or None in self.heard, f"{self.name} hears {position} twice"
        is_new = truth.losses[self.name] or truth.restored  # in another session, it belongs to the history
        assert text not in self.skipped or is_new, f"{self.name} hears {text!r}, which is not for it"
        self.heard.append(position)
        self.texts.add(text.partition(" x")[0])

    def missed_some(self) -> None:
        """It is told that it has missed some, and there is a reason."""
        truth = self._truth
        is_well = truth.is_well(self.name.partition(" ")[0], "broker", "store", since=truth.sim.now - 90.0)
        is_new = self.since is None or truth.sim.now < self.since + 10.0  # the store has to be asked where the log ends
        # A process that is far from the store may read a burst more slowly than others store it. What the log does not
        # keep is dropped then. (The store has not answered yet for the last events.)
        burst = [each for each in truth.emitted.values() if each.began > truth.sim.now - 20.0]
        is_burst = sum(each.size for each in burst if each.room == self.room) > 0.8 * LOG
        may_be = is_new or is_burst or truth.losses[self.name]
        assert not is_well or may_be, f"{self.name} has missed events, for no reason"
        self.missed()

    def missed(self) -> None:
        """It is told that it has missed some, or another session has begun."""
        self.heard.append(None)
        self.told.append(self._truth.sim.now)

    def check(self) -> None:
        """See that it has heard all that was stored while it was a member, or was told later that it has missed it."""
        truth, skipped = self._truth, {text.partition(" x")[0] for text in self.skipped}
        if self.since is None or self.until is None or truth.drops_events or (truth.restored and truth.nodes_end):
            return
        told = max(self.told, default=0.0)
        for text, (room, began, _) in truth.emitted.items():
            due = room == self.room and max(self.since, told, truth.marked_once) < began < self.until
            due = due and text not in skipped
            assert not due or text in self.texts, f"{self.name} has not heard {text!r} in {room}, and was not told"


def check_counts(peer: Peer) -> None:
    """See that what limits the requests of a peer agrees with the requests that there are."""
    admission, requests = current_of(peer).admission, current_of(peer).outbox.requests
    checked = admission.needs_checks
    admission.update()
    assert checked or not admission.needs_checks, admission
    table, flight = requests.all(), requests.flight
    counted = [pending for pending in table if pending.h is None and pending.state.counts]
    assert flight.requests == len(counted) + sum(flight.abandoned.values()), flight
    assert flight.bytes == sum(pending.size for pending in counted), flight
    assert flight.waiting == sum(pending.waiting_bytes for pending in table) >= 0, flight
    replay = peer._core.current.session.replay
    assert replay is None or replay.size == sum(map(len, replay._payloads)), f"{replay.size} bytes are kept"


def _number(position: str) -> int:
    return int(position.partition("-")[0])


class Truth:
    def __init__(self, sim: Simulation, of_nodes: Limits, of_clients: Limits) -> None:
        self.sim = sim
        self.of_nodes, self.of_clients = of_nodes, of_clients
        draw = sim.random_of("truth")
        self.is_slow = any(fault.kind == "slow" and fault.seconds > 60.0 for fault in sim.faults)
        """Whether somebody always has a slow network. Then a proxy is near, and guests send much, and go."""
        self.between = ["proxy"] if draw.random() < 0.3 or self.is_slow else []
        """The processes between clients and nodes."""
        self.expires = draw.choice([None, None, None, 5.0, 20.0])
        """Seconds after which the credentials of a client expire."""
        self.is_alone = draw.random() < 0.1
        """Whether there is one node, without a cluster, and with a store of its own."""
        self.nodes = NODES[:1] if self.is_alone else NODES
        self.is_odd = draw.random() < 0.5
        """Whether a store that fails also raises what it should not."""
        self.quota = draw.choice([None, None, None, 3])
        """How many connections each client may have."""
        self.keep = draw.choice([600.0, 15.0])
        """Seconds for which rooms keep their events."""
        self.strict_until = 300.0 if self.between and draw.random() < 0.1 else -inf
        """Until when the proxy ends each connection on which a frame is not small."""
        small = [limits for limits in (of_nodes, of_clients) if limits.waiting < 1024 or limits.message_bytes < 1024**2]
        self.drops_events = bool(small)
        """Whether receivers drop events, because more wait than their limits allow."""
        self.is_narrow = min(of_nodes.running, of_clients.running) < 1024
        """Whether handlers wait for others."""
        self.may_be_late = self.is_narrow or "slow" in {fault.kind for fault in sim.faults}
        """Whether answers may take as long as requests have by default."""
        self.is_broken = self.is_odd and "lossy store" in {fault.kind for fault in sim.faults}
        """Whether the store raises what it should not."""
        self.slowest = min((fault.strength for fault in sim.faults if fault.kind == "slow"), default=1.0)
        self.is_hasty = min(limits.ping_timeout or 20.0 for limits in (of_nodes, of_clients)) < 20.0
        """Whether an answer to a ping may not take as long as a part of a large message."""
        self.is_tight = min(of_nodes.unread_bytes, of_clients.unread_bytes) < 1024 * 1024
        """Whether a few large items are too much."""
        self.largest = int(min(of_nodes.message_bytes, of_clients.message_bytes) * 0.9)
        """Bytes of the largest text in a message."""
        self.calls: dict[int, Call] = {}
        self.keyed_runs: defaultdict[str, list[str]] = defaultdict(list)
        """By key: the runs and the losses that were told, in order."""
        self.keyed_began: dict[str, float] = {}
        """When the first run of each key has begun."""
        self.asked: dict[str, float] = {}
        """When a call with each key was made first."""
        self.started = 0.0
        """When the last node has started."""
        self.positions: dict[tuple[str, str], Any] = {}
        """By user and key: the position, the run and the number of the last item that was read."""
        self.notes: defaultdict[str, list[int]] = defaultdict(list)
        """The events that have arrived, by sender."""
        self.marks: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
        """The requests between the events of a sender: each with the number of events that had arrived."""
        self.worked: dict[str, float] = {}
        """When a handler of `watch` has worked last, by user and key."""
        self.held: Counter[tuple[str, str]] = Counter()
        """Bytes of uploads in the hands of handlers, by the process and the caller."""
        self.rings: Counter[str] = Counter()
        self.commands: defaultdict[str, list[int]] = defaultdict(list)
        """How often the handler of a call with ``deliver_within=`` has run, by the life of its client and its key."""
        self.charging: Counter[str] = Counter()
        """How many calls with each key have no result: those in flight, and those that have failed."""
        self.opened: dict[str, float] = {}
        """When each session has begun at its node, by its peer."""
        self.came: dict[str, float] = {}
        """When each user was connected to a node first."""
        self.served: dict[str, Any] = {}
        """The last peer of each user, at its node."""
        self.at: dict[str, str] = {}
        """The node of each of them."""
        self.draining_since = -inf
        """When a node has last begun to drain."""
        self.resumed: defaultdict[str, float] = defaultdict(float)
        """When the last session of each user has begun or resumed at its node."""
        self.kicked: dict[str, tuple[str, float, str]] = {}
        """The peers that a node has closed: the user, when, and why."""
        self.sessions: defaultdict[str, list[float]] = defaultdict(list)
        """When sessions of each user have begun in place of a lost one, at the first attempt: a kick is told once, and
        may get lost."""
        self.told_kicks: set[str] = set()
        self.sent: Counter[str] = Counter()
        """How many events each sender has sent, all of which must arrive."""
        self.losses: Counter[str] = Counter()
        """How often each sender was told that its session is lost."""
        self.said: dict[str, str] = {}
        """The events of rooms, by their positions in the log."""
        self.emitted: dict[str, Emission] = {}
        """The events that were stored, by the beginnings of their texts."""
        self.unsaid: set[str] = set()
        """The events of which the sender was told that they were not emitted."""
        self.hearings: list[Hearing] = []
        self.talks: dict[int, list[int]] = {}
        """What was heard in each conversation."""
        self.present: dict[str, str] = {}
        """The state of each user that functions of `on_presence` were told last. See `forget_guests`."""
        self.halls: dict[str, tuple[str, Any]] = {}
        """By the process of each node: its life, until it has ended by itself, and the room in which users are seen."""
        self.knowing: defaultdict[str, set[str]] = defaultdict(set)
        """The lives of nodes that have known each guest."""
        self.last_words: list[int] = []
        """The calls with which each client has said something in the end."""
        self.leaving: set[str] = set()
        """The clients that have made all their checks. Others may still wait for an answer that a fault has delayed."""
        self.finished: set[str] = set()
        self.lives: dict[str, str] = {}
        """The present life of each process."""
        self.numbers = count(1)
        self.node_names: dict[str, tuple[str, ...]] = dict.fromkeys(NODES, ())
        """The name that the cluster has given each node, by its process."""
        self.kinds = kinds = {fault.kind for fault in sim.faults}
        if self.strict_until > 0:
            kinds.add("power")  # whose frames are large reaches nobody for as long
        lasting = [fault.seconds for fault in sim.faults if fault.kind not in AT_ONCE | UNNOTICED]
        self.forgotten = forgotten = [fault.when for fault in sim.faults if fault.kind == "forget"]
        """When routers forget connections."""
        # The client waits ever longer.
        hasty = [fault.seconds for fault in sim.faults if fault.kind in ("flap", "break")]
        self.is_loud = kinds <= LOUD and max(hasty, default=0.0) < 8.0
        """Whether all clients are back soon after the faults."""
        lossy = [fault.when for fault in sim.faults if fault.kind == "lossy engine"]
        # One loses at most two beats of a node in a row. Several may lose all that it says until it counts as ended.
        is_heard = all(after - before > NODE_TIMEOUT for before, after in pairwise(lossy))
        self.is_short = sum(lasting) < 8.0 and max(lasting, default=0.0) < 4.0 and is_heard
        # Where the way to the broker is slow, a node that reaches nobody for a moment may lose its engine.
        self.is_short = self.is_short and not (self.is_slow and "isolate" in kinds)
        short = sum(lasting) < 20.0 and sum(hasty) < 2.0
        # A session begins with the first message that arrives.
        self.is_mild = kinds <= HARMLESS and short and len(forgotten) < 2 and min(forgotten, default=9.0) > 2.0
        # The node ends such a connection long before the client notices. Clocks that differ end connections at once.
        is_patient = (of_clients.ping_timeout or 0.0) > (of_nodes.ping_timeout or 0.0)
        self.is_mild = self.is_mild and not ((self.expires or is_patient) and forgotten)
        self.is_mild = self.is_mild and not (self.expires and "clock" in kinds)
        """Whether no session may be lost, and no call may fail but for its own timeout."""
        self.nodes_end = not kinds.isdisjoint({"kill", "power", "stop", "isolate"})
        """Whether nodes or clients end, or seem to."""
        self.restored = "restored store" in kinds or (self.is_alone and self.nodes_end)
        """Whether what was stored may be forgotten."""
        self.begins_anew = self.is_alone and max(lasting, default=0.0) > self.keep
        """Whether the log of a room has perhaps expired, because nobody reached its only node for so long."""
        restores = sorted(fault.when + fault.seconds for fault in sim.faults if fault.kind == "restored store")
        twice = [after for before, after in pairwise(restores) if after // 10.0 == before // 10.0]
        self.marked_once = max(twice, default=0.0)
        """Until when the store forgets something twice within the ten seconds in which processes mark a loss once."""
        self.is_far = self.nodes_end and sum(lasting) < 4.0 and not self.may_be_late
        """Whether the store is far away, and nodes call those who are away. Nothing else is away for long."""

    @property
    def must_go_on(self) -> bool:
        """Whether no session may be lost now. Without the node that has it, it may after five seconds."""
        return self.is_mild and (self.is_short or self.is_well("broker", "store", since=self.sim.now - 30.0))

    def is_well(self, *names: str, since: float, despite: Collection[str] = ()) -> bool:
        """Whether nothing has gone wrong with the nodes, and some others, since a time."""
        is_well = self.sim.is_well(*self.nodes, *self.between, *names, since=since, despite=despite)
        return is_well and since > self.strict_until

    def hears_others(self, here: str, since: float) -> bool:
        """Whether a node has heard the others since a time, as far as it was not paused itself."""
        others = [name for name in self.nodes if name != here]
        is_well = self.sim.is_well(here, *others, "broker", since=since, despite=OF_CLIENTS)
        return is_well and self.sim.is_well(*others, "broker", since=since, despite=OF_CLIENTS - {"pause"})

    def check_drop(self, user: str, info: CloseInfo) -> None:
        """A slow path ends no connection, if it carries a large part of a message while one side waits."""
        # A proxy reads 256 KiB at once, and then nothing until it has passed on as much.
        at_rest = 0.33 if self.between else 0.26
        least = 0.56 if self.is_hasty and "acknowledged" not in info.reason else at_rest
        # To close a connection whose credentials have expired takes long if a proxy holds much.
        is_enough = self.slowest > least and not (self.is_slow and self.expires)
        despite = UNNOTICED if is_enough else {"clock"}
        has_moved = self.resumed[user] > self.opened[self.served[user].id]  # perhaps to a connection of another node
        nodes = self.nodes if has_moved else [self.at[user]]
        since = self.sim.now - 50.0
        is_well = self.sim.is_well(*nodes, *self.between, user, "broker", since=since, despite=despite)
        may_be = info.code == 4411 or self.sim.now < self.strict_until
        # Behind many bytes, the frame that closes a connection comes too late, and the connection is reset.
        may_be |= any(name == user and when > since for name, when, _ in self.kicked.values())
        assert may_be or not is_well, f"{user} has lost its connection: {info}, for no reason"

    def call(self, name: str) -> tuple[int, Call]:
        number = next(self.numbers)
        self.calls[number] = call = Call(f"{name} {number}", self.sim.here)
        return number, call

    def begins(self, number: int) -> None:
        self.calls[number].runs += 1

    @contextmanager
    def runs(self, number: int) -> Generator[Call]:
        """Count a run of a handler, and note when it ends. A process that is killed notes nothing."""
        self.begins(number)
        call = self.calls[number]
        call.running = self.sim.here.partition(" ")[0], self.sim.here
        try:
            yield call
        finally:
            call.running = None

    def check_ends(self) -> None:
        """See that no handler runs whose caller has got an error, or has given up, a minute ago."""
        for call in self.calls.values():
            if call.ended < self.sim.now - 60.0 and call.running is not None:
                process, life = call.running
                assert self.lives.get(process) != life, f"{call.name} has ended, and its handler at {life} runs on"

    def holds(self, caller: str, size: int) -> None:
        """A handler has got so many bytes of an upload of a caller, or is ready with them."""
        limits, place = self.of_clients if self.sim.here[0] == "c" else self.of_nodes, (self.sim.here, caller)
        self.held[place] += size
        assert self.held[place] < limits.unread_bytes + 200_000, f"{self.held[place]} bytes of {caller} are in hand"

    def loses(self, who: str, why: object, *, may_be: bool) -> None:
        assert may_be or not self.must_go_on, f"{who} has lost its session: {why}"
        self.losses[who] += 1

    def loses_run(self, key: str, may_be: bool) -> None:
        """A caller was told that the run of a key is lost. ``may_be``: although it has perhaps never begun."""
        assert may_be or self.keyed_runs[key], f"{key!r} has never run, and its caller gets RunLost, for no reason"
        self.keyed_runs[key].append("lost")

    def check(self) -> None:
        for call in self.calls.values():
            call.check()
        for user, when, why in self.kicked.values():
            is_back = any(when < began < when + 20.0 for began in self.sessions[user])
            # Perhaps the connection was just being closed because its credentials had expired.
            untold = is_back and why not in self.told_kicks and not (self.nodes_end or self.expires)
            assert not untold, f"{user} was closed ({why}), is back, and is not told"
        for hearing in self.hearings:
            hearing.check()
        for key, runs in self.keyed_runs.items() if not self.restored else ():
            for before, run in pairwise(runs):
                assert run == "lost" or before == "lost", f"key {key!r} has run again: {runs}"
        # Requests that wait for a place have not been sent.
        for sender, marks in self.marks.items() if not self.is_narrow and self.largest > 300_000 else ():
            for mark, arrived in marks:
                overtaking = [note for note in self.notes[sender][:arrived] if note > mark]
                assert not overtaking, f"event {overtaking[0]} of {sender} has overtaken request {mark}"
        for sender, notes in self.notes.items():
            if sender.startswith("ask other "):  # every second one is a request
                notes = [note // 2 for note in notes]
            assert notes == sorted(set(notes)), f"the events of {sender} are out of order: {notes}"
            gaps = sum(after != before + 1 for before, after in pairwise(notes))
            assert gaps <= self.losses[sender] or self.drops_events, (
                f"events of {sender} are missing, which nobody was told: {notes}"
            )
        for sender, commands in self.commands.items() if not self.restored else ():
            assert commands == sorted(commands), f"{sender} have overtaken each other: {commands}"
        for key, times in self.rings.items():
            assert times <= 1, f"{key} has rung {times} times"
        for sender, sent in self.sent.items():
            last = max(self.notes[sender], default=0)
            assert last == sent or self.losses[sender] or self.drops_events, (
                f"{sender} has sent {sent} events, and {last} have arrived"
            )

    def forget_guests(self) -> None:
        """If all nodes have ended that knew a guest, nobody is left who could report that the guest is offline."""
        guests = [user for user, state in self.present.items() if user.startswith("guest") and state != "offline"]
        despite, living = self.kinds - ENDS, set[str]()
        for name, (life, hall) in self.halls.items() if guests else ():
            if self.sim.is_well(name, since=self.sim.now, despite=despite):
                living.add(life)
                known = {str(user) for user in hall.present()}
                for guest in known.intersection(guests):
                    self.knowing[guest].add(life)
        for guest in guests:
            if living.isdisjoint(self.knowing[guest]):
                del self.present[guest]

    def check_present(self, what: str, present: Iterable[object], everybody: list[str]) -> None:
        found = sorted(user for user in map(str, present) if user not in self.leaving)
        assert found == [user for user in everybody if user not in self.leaving], f"{what} sees {found}"
