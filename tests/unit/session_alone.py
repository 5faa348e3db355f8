"""A session alone: no peer, no event loop. A script says what happens to it, and gets the trace of what it does."""

from __future__ import annotations

import asyncio
import json
import sched
from ast import literal_eval
from collections.abc import Callable, Coroutine
from contextlib import suppress
from itertools import groupby
from types import SimpleNamespace
from typing import Any

import msgspec
from core_driver import Played
from stream_driver import control

from wsrpc import CloseInfo, ConnectionLost, Handshake, Limits
from wsrpc._base.logs import PeerLog
from wsrpc._core.handlers.registry import Registry
from wsrpc._core.session.client_session import ClientSession
from wsrpc._core.session.connection import Connection
from wsrpc._core.session.offline_queue import Encoded, OfflineQueue
from wsrpc._core.session.peer_host import PeerHost
from wsrpc._core.session.peer_owner import PeerOptions
from wsrpc._core.session.session_end import Decision
from wsrpc._core.session.session_states import SessionInput
from wsrpc._core.session.sessions import ClosedSession, ServerSession, Sessions
from wsrpc._core.wire.control import Drain, Resume
from wsrpc._core.wire.settings import make_settings
from wsrpc.transport import ConnectionInfo, Traffic

SIDES = ("client", "server")
SMALL = 128 * 1024
"""The smallest `Limits.replay_bytes`."""
TTL = 60.0
"""Seconds for which a session is kept without a connection."""


class Timers(sched.scheduler):
    """Time that stands still until `advance`."""

    def __init__(self) -> None:
        super().__init__(self.time)
        self.now = 0.0

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[], object]) -> Any:
        event = self.enterabs(when, 0, callback)

        def cancel() -> None:
            if event in self.queue:
                self.cancel(event)

        return SimpleNamespace(cancel=cancel)

    def call_soon(self, callback: Callable[[], object]) -> None:
        self.call_at(self.now, callback)

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.get_running_loop().create_future()

    def advance(self, seconds: float) -> None:
        until = self.now + seconds
        while (wait := self.run(blocking=False)) is not None and self.now + wait <= until:
            self.now += wait
        self.now = until


class Wire(Played):
    """A connection whose traffic is traced."""

    traffic: Traffic | None = None

    def __init__(self, trace: list[str], takes: int = 2**53, key: str = "") -> None:
        super().__init__(ConnectionInfo(headers={"sec-websocket-key": key} if key else {}), takes)
        self.trace = trace

    def send(self, payload: bytes, text: bool = True, /) -> None:
        super().send(payload, text)
        said: dict[str, Any] = json.loads(payload)["wsrpc"] if text and b"wsrpc" in payload else {}
        counts = "".join(f"={said[name]}:{said['bytes']}" for name in ("n", "rx") if name in said)
        self.trace.append(said["t"].replace("resumed", "resume") + counts if said else f"{len(payload)}{'t' * text}")

    async def close(self, code: int | None = 1000, reason: str = "") -> None:
        if self.closed is None:
            self.trace.append(f"closes={code}")
        await super().close(code, reason)

    def abort(self) -> None:
        self.trace.append("aborts")
        super().abort()


class Above:
    """The inside of the peer, to which a session reports. It traces that, and does what the test says."""

    has_calls = False

    def __init__(self, alone: Alone) -> None:
        self.alone = alone
        self.does: dict[str, Callable[..., object]] = {
            "decide": lambda info: Decision(keeps=True),
            "session_resuming": lambda connection, limits: True,
            "backlog": lambda: 0,
            "give_up": lambda payload: (b"sorry", False),
            "fail": alone.close,
            "session_over": lambda end: alone.offline.end_session(end.error),
        }

    def __getattr__(self, name: str) -> Callable[..., object]:
        def report(*args: Any) -> object:
            alone, does = self.alone, self.does.get(name)
            if name == "room_changed":
                alone.trace.append("full" if alone.session.full else "room")
            elif name == "session_over":
                alone.end = args[0]
                alone.trace.append(f"over={args[0].cause.name}")
            elif name not in ("update", "backlog", "message_queued"):
                alone.trace.append(TRACED.get(name) or f"{name}={getattr(args[0], 'message', args[0])}")
            return None if does is None else does(*args)

        return report


TRACED = {
    "decide": "asked",
    "session_detached": "detached",
    "session_resuming": "resuming",
    "session_resumed": "resumed",
    "control_received": "control",
    "give_up": "given-up",
    "drop_backlog": "dropped",
}
"""How a trace shows the reports. ``fail`` and ``agree`` are there with the code, and the limit of a message."""


class Message(Encoded):
    """A message that waits. One without bytes has to wait longer, and one that ``fails`` is not accepted any more."""

    fails: bool = False

    def encoded(self) -> tuple[bytes, bool] | None:
        if self.fails:
            raise ValueError("it is too large")
        return (self.payload, False) if self.payload else None


def expected(trace: str, side: str) -> str:
    """Return a trace of a table that both sides share, without the words that are after the name of the other one."""
    words = [word.rpartition("?") for word in trace.split()]
    return " ".join(word for only, _, word in words if only in ("", side))


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine that waits for nothing."""
    with suppress(StopIteration):
        coroutine.send(None)


def literal(word: str) -> Any:
    """Return a number, or two of them such as ``2:3``, or a word."""
    try:
        return literal_eval(word.replace(":", ","))
    except (ValueError, SyntaxError):
        return word


class Alone:
    """A session of a client or of a server, and the trace of what it sends and reports.

    Args:
        sessions: the table of the server.
        offers: the features of the remote peer.
        options: `Limits`.
    """

    def __init__(
        self,
        side: str = "server",
        *,
        sessions: Sessions | None = None,
        principal: object = None,
        remote: str = "",
        offers: str = "resume",
        profile: Any = None,
        timers: Timers | None = None,
        **options: Any,
    ) -> None:
        self.side, self.offers, self.principal = side, offers.split(), principal
        self.trace: list[str] = []
        self.end: Any = None
        self.timers: Any = timers or Timers()
        self.above: Any = Above(self)
        self.got: list[str | bytes] = []
        self.limits = Limits(**{"replay_bytes": SMALL, "hard_cap_bytes": SMALL} | options)
        settings: Any = make_settings(self.limits, None, profile=profile)
        known: Any = PeerOptions(settings, side == "client", Registry(), Registry())
        make: Any = PeerHost
        self.host: Any = make(known, self.timers, PeerLog(), SimpleNamespace(spawn=run), self.above)
        self.host.current, self.host.log.principal = self.above, principal
        self.offline = OfflineQueue(self.host)
        self.sessions = Sessions(TTL, 2**40) if sessions is None else sessions
        info = ConnectionInfo(remote=(remote, 1) if remote else None)
        self.peer = SimpleNamespace(principal=principal, info=info)
        home: Any = SimpleNamespace(sessions=self.sessions, peer=self.peer, set_handshake=lambda handshake: None)
        self.session: Any
        if side == "client":
            self.session = ClientSession(self.host, self.offline)
        else:
            self.session = ServerSession(self.host, self.offline, home=home)
        self.wire = Wire(self.trace)
        self.named: dict[str, Any] = {"sid": "s.id", "token": "secret", "ttl": TTL}
        """What the welcome says of the session."""
        self.gen = 0

    def play(self, script: str) -> str:
        """Call what ``script`` names, here, of the session or its connection. Return the trace since the last ``|``."""
        for step in script.split("; "):
            if step.startswith("|"):
                self.trace.clear()
            name, *words = step.removeprefix("|").split()
            args, options = list[Any](), dict[str, Any]()
            for word in words:
                key, equals, value = word.partition("=")
                size, times, count = word.partition("*")
                if equals:
                    options[key] = literal(value)
                else:
                    args += [int(size)] * int(count) if times else [literal(word)]
            owner = next(owner for owner in (self, self.session, self.wire) if hasattr(owner, name))
            getattr(owner, name)(*args, **options)
        runs = [(token, len(list(same))) for token, same in groupby(self.trace)]
        return " ".join(token if n == 1 else f"{token}*{n}" for token, n in runs)

    # ------------------------------------------------------------ connections

    def start(self, connection: Connection | None = None, *, can_resume: bool = True, key: str = "") -> None:
        self.wire = Wire(self.trace, key=key)
        self.session.start_on(connection or Connection(self.wire), can_resume=can_resume)
        self.session.start_receiving(self._receive, lambda: None)

    def _receive(self, payload: bytes | bytearray, text: bool, /) -> None:
        session = self.session
        if not (session.receive_part(payload, text) or (text and session.receive_control(payload))):
            self.got.append(payload.decode() if text else bytes(payload))

    def greet(self, message: int = 2**53, **fields: Any) -> None:
        """Let the remote peer say hello, or welcome."""
        given = {"features": self.offers, "limits": {"message": message}}
        if self.side == "client":
            self.say("welcome", **given | self.named | fields)
            return
        self.wire.pop_sent()
        self.say("hello", v=1, **given | fields)
        self.named |= next((each["wsrpc"] for each in self.wire.pop_sent() if "sid" in each["wsrpc"]), {})

    def begin(self, **fields: Any) -> Alone:
        """Start the session, which can resume from now on."""
        self.start()
        self.greet(**fields)
        self.trace.clear()
        return self

    def decide(self, **answers: object) -> None:
        """Let those above give these answers to what the session asks."""
        for name, answer in answers.items():
            self.above.does[name] = lambda *args, answer=answer: answer

    def forget(self) -> None:
        """Let those above not keep the session without a connection."""
        self.decide(decide=Decision())

    def drop(self, code: int = 1006, *, clean: bool = False) -> None:
        self.wire.lose(CloseInfo(code, was_clean=clean))

    def refuse(self) -> None:
        """Let the connection refuse a message."""
        self.wire.takes = 0
        self.session.send_failed(ConnectionLost(1006, "broken"))

    def ask(self, *, refused: Callable[[Connection], object] = lambda connection: None, takes: int = 2**53) -> None:
        """Let the client ask to resume on another connection."""
        self.wire = Wire(self.trace, takes)

        def was_refused(connection: Connection) -> None:
            self.trace.append("refused")
            refused(connection)

        failed: Callable[[CloseInfo], None] = lambda info: self.trace.append("failed")  # noqa: E731
        self.session.ask_to_resume(Connection(self.wire), refused=was_refused, failed=failed)

    def resume(
        self,
        arrived: tuple[int, int] = (0, 0),
        *,
        by: object = None,
        within: Limits | None = None,
        takes: int = 2**53,
        message: int = 2**53,
        **fields: Any,
    ) -> None:
        """Let the session resume on another connection, when so many messages and bytes have arrived.

        Args:
            by: the principal of the connection, and ``within`` the limits of its handshake.
            message: the limit of a message of the remote peer.
        """
        said = {"rx": arrived[0], "bytes": arrived[1], "limits": {"message": message}}
        if self.side == "client":
            self.ask(takes=takes)
            self.say("resumed", **{"token": "secret"} | said | fields)
            return
        self.wire, self.gen = Wire(self.trace, takes), self.gen + 1
        own = {"v": 1, "features": self.offers, "sid": self.named["sid"], "token": self.named["token"], "gen": self.gen}
        handshake = Handshake("/", {}, limits=within or self.limits)
        handshake.principal = by or self.principal
        asked, connection = msgspec.convert(own | said | fields, Resume), Connection(self.wire)
        found = self.sessions.resume(asked, connection, handshake)
        if found is not self.peer:
            self.trace.append(f"answer={found.closed_with.code if isinstance(found, ClosedSession) else found}")

    def close(self, code: int = 4000, reason: str = "") -> None:
        """Let this side close, as the inside of the peer does."""
        self.session.start_closing(CloseInfo(code, reason, user_closed=True))
        run(self.session.close(code, reason))

    def on(self, **values: int) -> None:
        """Set attributes of the connection."""
        for name, value in values.items():
            setattr(self.wire, name, value)

    def ends(self, cause: str) -> None:
        self.session.end(SessionInput[cause], "the reason")

    def closing(self, code: int = 4000) -> None:
        """Let this side begin to close."""
        self.session.start_closing(CloseInfo(code, user_closed=True))
        self.wire.takes = 0

    def resumed(self, arrived: tuple[int, int] = (0, 0)) -> None:
        """Let the server answer that the session resumes."""
        self.say("resumed", rx=arrived[0], bytes=arrived[1], token="secret", limits={})

    # ------------------------------------------------------------ messages

    def say(self, kind: str, **fields: Any) -> None:
        """Let the remote peer send a control message."""
        self.wire.feed(control(kind, **fields))

    def say_drain(self) -> None:
        """Let this side send a control message."""
        self.session.send_control(Drain(0))

    def change(self, size: int) -> None:
        """Change the limits of this side."""
        self.session.change_limits(Limits(message_bytes=size))

    def announce(self, **limits: int) -> None:
        self.say("limits", limits=limits)

    def ack(self, counts: tuple[int, int]) -> None:
        self.say("ack", n=counts[0], bytes=counts[1])

    def get(self, *sizes: int) -> None:
        """Let messages of so many bytes arrive, in one read."""
        self.wire.feed(*(b"x" * size for size in sizes))

    def raw(self, *payloads: str) -> None:
        self.wire.feed(*map(bytes.fromhex, map(str, payloads)))

    def send(self, *sizes: int, text: bool = False) -> None:
        """Send messages that have so many bytes, or let them wait."""
        try:
            for size in sizes:
                self.session.send_or_wait(b"1" * size, text)
        except ConnectionLost:
            self.trace.append("fails")

    def queue(self, size: int, *, of_session: bool = False, fails: bool = False) -> None:
        """Let a message wait, by default one of the user."""
        self.offline.add(Message(b"1" * size, False, of_session, fails=fails))

    def withdraw(self) -> None:
        """Let the message no longer wait that has waited longest."""
        self.offline.all()[0].withdraw()
        self.session.queue_changed()

    # ------------------------------------------------------------ time, and what a script looks at

    def wait(self, seconds: float) -> None:
        self.timers.advance(seconds)

    def ignore(self) -> None:
        """Let this side close its connection, but not its session."""
        self.session.connection.stop_receiving()

    def mark(self, word: str = "--") -> None:
        self.trace.append(word)

    def look(self, *names: str) -> None:
        """Add attributes to the trace: of the session, or what is around it."""
        around = {
            "timers": len(self.timers.queue),
            "ignored": self.host.ignored.total(),
            "queued": self.offline.user_size,
            "largest": self.wire.largest,
            "code": self.session.last_close.code,
            "survives": self.wire.survives,
        }
        for name in names:
            value = around[name] if name in around else getattr(self.session, name)
            self.trace.append(f"{name}={getattr(value, 'text', value)}")
