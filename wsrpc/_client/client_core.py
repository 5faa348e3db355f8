"""`ClientCore`: the inside of a client. It decides whether to dial again, and owns the peer."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from functools import partial
from typing import Literal

from .._base.closing import CloseCode, CloseInfo, check_close
from .._base.scheduler import LoopScheduler, spawn_later
from .._core.api.peer import Peer, core_of
from .._core.handlers.lifecycle import Closers
from .._core.handlers.registry import Registry
from .._core.peer.peer_session import PeerSession
from .._core.sending.checks import check_thread
from .._core.sending.draining import LONGEST_DRAIN
from .._core.session.client_session import ClientSession
from .._core.session.connection import Connection, close_transport
from .._core.session.peer_owner import PeerOwner, Unfinished
from .._core.session.session_end import NO_DECISION, Decision, SessionEnd
from .._core.session.session_states import SessionInput
from .._core.wire.settings import Settings
from .._keyed.runs import Runs
from .._net.dialing.urls import shown_url
from ..errors import ConnectionLost, SessionLost, named_with_notes
from ..transport import Transport
from .client_room import ClientRooms
from .client_states import AT_REST, TABLE, ClientState, Input, after
from .connection_waiters import ConnectionWaiters
from .dialing import NO_CONNECTION, STILL_OPENING, Dialing, DialPlan
from .reconnect_hooks import ReconnectHooks
from .reconnect_policy import ReconnectSchedule
from .user_command import UserCommand

NOT_CONNECTING = (
    "%s for a connection, but this client is not connecting: "
    "call connect(), start() or bind(), or open it with `with` (`async with`)"
)


class ClientCore(PeerOwner):
    """The inside of a client: its state, the user's last command, and the owner of its peer.

    `_dial_again_or_give_up` decides after each drop whether the client dials again. ``TABLE`` of
    ``_client.client_states`` has the states, and the effect of each input.
    """

    def __init__(
        self, settings: Settings, registry: Registry, plan: DialPlan, runs: Runs, *, fails_offline: bool
    ) -> None:
        self.limits = settings.limits
        self.plan = plan
        self._runs = runs
        self.scheduler = LoopScheduler()
        self.peer: Peer = Peer(
            settings,
            dialer=True,
            registry=registry,
            loop=self.scheduler,
            keeps_offline=True,
            fails_offline=fails_offline,
            can_resume=plan.dials and plan.reconnect is not None,
            owner=self,
        )
        self.peer_core = core_of(self.peer)
        if isinstance(plan.dialer.url, str):
            self.dials(plan.dialer.url)
        self.state: ClientState = "idle"
        self.hooks = ReconnectHooks(registry)
        self.rooms = ClientRooms(self.peer_core, registry)
        self._command = UserCommand()
        self._stopping: set[asyncio.Task[None]] = set()
        """Tasks of dialing that was stopped, but has not ended yet."""
        self._waiters = ConnectionWaiters()
        self._closers = Closers()
        self._warned_of_wait = False
        self._retry_level = logging.INFO if settings.between_nodes else logging.WARNING

    @property
    def peer_session(self) -> PeerSession:
        """The inside of the present session, or of the next one."""
        return self.peer_core.current

    # ------------------------------------------------------------ calls of the user

    async def connect(self) -> None:
        """See `Client.connect`."""
        self.start(Input.CONNECT)
        command = self._command
        assert command.dialing is not None
        limit = asyncio.timeout(self.plan.timeout)
        try:
            async with limit:
                await self.wait_connected()
            return
        except TimeoutError:
            if not limit.expired():
                raise
        except asyncio.CancelledError:
            alone = self._waiters.count == 0 and command is self._command and command.dialing.first
            if alone and Input.CANCELLED in TABLE[self.state]:
                self.move(Input.CANCELLED)
                if stopping := self._replace_command(UserCommand()):
                    await asyncio.wait(stopping)
            raise
        await self._connect_timed_out(command.dialing, limit.when())

    def start(self, happened: Input = Input.START) -> None:
        """See `Client.start`. `connect` starts in the same way."""
        if not self.plan.dials:
            raise ValueError("this client has no url to dial: give Client(url), or bind() a connection")
        self.enter_loop()
        if self.state in AT_REST:
            self._start_command(happened)
            assert self._command.dialing is not None
            self._command.dialing.start()

    async def _connect_timed_out(self, first_dialing: Dialing, ends_at: float | None) -> None:
        """Raise `ConnectFailed` for a `connect` whose time is over, unless its outcome was decided in the meantime."""
        dialing = self._command.dialing
        # In the turn of the event loop in which the time ended, the connection may have opened, or the client may have
        # closed. With a dead connection, the state is "connected" until the end of the connection is reported.
        decided = self.state in ("closing", "closed") or (self.state == "connected" and self.peer.connected)
        # A client that dials for its first connection gives up in this turn, too, and reports the reason.
        deadline = None if dialing is None else dialing.deadline
        if decided or (deadline is not None and ends_at is not None and deadline <= ends_at):
            await self.wait_connected()
            return
        failure = (dialing or first_dialing).timeout_error(STILL_OPENING if self.state == "opening" else NO_CONNECTION)
        raise failure from failure.__cause__

    async def wait_connected(self) -> None:
        """See `Client.wait_connected`."""
        self.enter_loop()
        while True:
            if self.peer.connected:
                if self.peer_session.opening.in_handler():  # the caller would wait for itself
                    return
                await self.peer.wait_connected()
                if self.peer.connected:
                    return
            if self.plan.dials:  # without a URL the caller may wait for `bind`
                self._warn_if_idle("wait_connected() waits")
            await self._waiters.wait()

    async def bind(self, transport: Transport, *, is_last: bool = False) -> None:
        """See `Client.bind`. With ``is_last``, nothing waits for another `bind`."""
        connection = self.peer_core.check_new(Connection(transport))
        self.enter_loop()
        self._start_command(Input.BIND)
        self._command.is_last = is_last and not self.plan.dials
        current = self._start_session(self._command, connection)
        if self.peer_session is current:  # a handler may have bound another one in its first step
            await self.peer.wait_connected()
        if self.peer_session.session.live_connection is not connection:
            last = self.peer_session.session.last_close
            raise ConnectionLost(last.code, last.reason)

    async def close(self, code: int | None, reason: str, drain: float = 0.0) -> None:
        """See `Client.close`. Each call drains for its own time, and the first whose time is over closes."""
        reported_code = check_close(code, reason)
        self.enter_loop()
        # The close does not wait for handlers that wait for the close.
        self._closers.add_current()
        closing = self._command.closing
        if drain and self.state not in AT_REST:
            self.peer_core.admission.leaving = True
            self.peer_core.admission.update()
            self.peer_session.dispatcher.refuse_waiting()
            self._runs.refuse_waiting()
            closing = spawn_later(self._drain_and_close(self._command, code, reason, drain))
        elif closing is None or self.state != "closing":
            closing = self._start_close(reported_code, code, reason)
        await asyncio.shield(closing)

    async def _drain_and_close(self, command: UserCommand, code: int | None, reason: str, seconds: float) -> None:
        try:
            async with asyncio.timeout(min(seconds, LONGEST_DRAIN)):
                await self._wait_idle(command)
        except TimeoutError:
            self.peer_core.log(logging.WARNING, "draining timed out: closing although there is still active work")
        if command is self._command or self.state == "closing":  # else the user has called `bind` meanwhile
            await self.close(code, reason)

    async def _wait_idle(self, command: UserCommand) -> None:
        """Wait until nothing is active or pending, and what has to leave has left, or ``command`` has ended."""
        while command is self._command:
            await self._runs.wait_idle()
            if await self.peer_core.wait_active(self._closers):
                continue
            if self.peer.connected or self.state in AT_REST or not self.peer_core.outbox.kept_bytes:
                return
            await asyncio.gather(self.wait_connected(), return_exceptions=True)  # the state says if there is none

    def _start_close(self, reported_code: int, code: int | None, reason: str) -> asyncio.Task[None]:
        command = UserCommand()
        stopping = self._replace_command(command)
        self.move(Input.CLOSE)
        self._runs.link.closed = True
        # The connection may be dead.
        transport = self.peer.transport
        self.peer_session.start_close(reported_code, reason)
        self.peer_core.named_channels.end(lambda: None)
        lost = ConnectionLost(reported_code, reason or "the client was closed", "not_sent")
        self._waiters.notify(self._waiters.failure or lost)
        self.hooks.closed()
        return command.close(self._close(command, stopping, transport, code, reason))

    async def _close(
        self,
        command: UserCommand,
        stopping: set[asyncio.Task[None]],
        transport: Transport | None,
        code: int | None,
        reason: str,
    ) -> None:
        if stopping:
            await asyncio.wait(stopping)
        if transport is not None:
            await close_transport(transport, code, reason)
        # If the user has called `connect` or `bind` meanwhile, the handlers that run now do not belong to this close.
        await self.peer_core.join(self.limits.close_timeout, self._closers, lambda: command is self._command)
        if command is self._command:
            self.move(Input.CLOSED)
            self._closers = Closers()

    # ------------------------------------------------------------ the state

    def move(self, happened: Input) -> None:
        """Enter the next state."""
        self.state = after(self.state, happened)

    def enter_loop(self) -> None:
        """Bind the client to the running event loop, and drop what it still has in another one.

        Raises:
            RuntimeError: the client is still connected in the other loop, or the other loop runs in another thread.
                Nothing has changed.
        """
        moves = self.scheduler.is_elsewhere
        if moves and self.scheduler.is_running:
            check_thread(self.peer_session.writer.thread, "client.method()")
        if moves and self.peer.transport is not None:
            raise RuntimeError(
                "this client was connected when its event loop ended: close() it there, or make a new Client"
            )
        if self.scheduler.renew():
            if self.state != "closed":
                self.state = "idle"
            self.peer_session.writer.enter_loop()
            if moves:
                self.peer_core.named_channels.loop_ended()
            self._command.stop_timer()
            self._command = UserCommand()
            self._stopping = set()
            self._waiters = ConnectionWaiters(self._waiters.failure)

    def _start_command(self, happened: Input) -> None:
        """Replace the present command by one for `connect`, `start` or `bind`."""
        dialing = None
        if self.plan.dials:
            dialing = Dialing(self.plan, self.scheduler, self, first=happened is Input.CONNECT)
        self._replace_command(UserCommand(dialing))
        self.move(happened)
        self._runs.link.closed = False
        self.peer_core.admission.leaving = False  # which counts from the next session on
        self._waiters.failure = None
        self.peer_core.outbox.expects_session = True
        self.peer_core.named_channels.reopen()

    def _replace_command(self, command: UserCommand) -> set[asyncio.Task[None]]:
        """End the present command. Return the tasks of stopped dialing that have not ended yet."""
        dialing, self._command = self._command.dialing, command
        task = None if dialing is None else dialing.stop()
        if task is not None:
            self._stopping.add(task)
            task.add_done_callback(self._stopping.discard)
        return self._stopping - {asyncio.current_task()}

    def _give_up(self, failure: Exception) -> None:
        """Stop dialing: there will be no connection unless the user calls `connect`, `start` or `bind`."""
        self.move(Input.GAVE_UP)
        self._command.stop_timer()
        self.peer_core.outbox.expects_session = False
        self.peer_core.named_channels.end(lambda: failure)
        if not isinstance(failure, ConnectionLost):
            level = logging.WARNING if self._command.is_first else logging.ERROR  # `connect` also raises it
            self.peer_core.log(level, "the client gives up: %s", named_with_notes(failure))
        self._waiters.notify(failure)

    # ------------------------------------------------------------ connections

    def _start_session(self, command: UserCommand, connection: Connection) -> PeerSession:
        """Start a session on ``connection``, for the present ``command``.

        Raises:
            ConnectionLost: a `close` handler has closed the client or bound another connection, when the last session
                ended, or now because it had to wait. ``connection`` is closed, too.
        """
        now = self.scheduler.time()
        current = self.peer_core.replace_session(connection) if self._command is command else None
        if current is None or self._command is not command:
            self.peer_core.reporter.spawn(connection.close(CloseCode.GOING_AWAY))
            raise ConnectionLost(CloseCode.GOING_AWAY, "", "not_sent")
        if command.dialing is not None:
            command.dialing.session_started()
        self.hooks.session_started(command.attempts, now)
        current.start(connection)
        return current

    def decide(self, info: CloseInfo) -> Decision:
        # If no other session is expected, the user has closed the peer.
        expects_more = self.state in ("opening", "connected") and self.peer_core.outbox.expects_session
        return self._decide(info) if expects_more else NO_DECISION

    def session_detached(self, decision: Decision) -> None:
        self.hooks.connection_lost(self.scheduler.time())
        self._dial_again_or_give_up(Input.DETACHED, decision)

    def resumed(self) -> None:
        self.hooks.resumed(self._command.attempts, self.scheduler.time())
        if self._command.dialing is not None:
            self._command.dialing.session_resumed()
        if self.peer_session.opening.running is not None:
            self.move(Input.REOPENED)
            self._waiters.notify(None)  # an `open` handler stops waiting; other callers wait for the handlers
        else:
            self.opened(Input.RESUMED)

    def opened(self, happened: Input = Input.OPENED) -> None:
        self.move(happened)
        if self._command.dialing is not None:
            self._command.dialing.reset_attempts()
        self._waiters.notify(None)
        if self.hooks.resumed_info is not None:
            self.peer_core.reporter.notify_hooks("on_reconnect", (self.hooks.resumed_info,))  # nothing waits for them
        self.rooms.join_all_again()  # not before, because the events of the log would wait while handlers run

    def opening_handlers(self, event: Literal["open", "on_reconnect"]) -> list[Unfinished]:
        return self.hooks.handlers() if event == "on_reconnect" else []

    def session_over(self, end: SessionEnd) -> None:
        lost = end.error if isinstance(end.error, SessionLost) else None
        self.hooks.session_lost(lost)
        if lost is None:  # otherwise the connection was lost before
            self.hooks.connection_lost(self.scheduler.time())
        dropped = ConnectionLost(end.info.code, end.info.reason, "not_sent")
        is_away = Input.LOST in TABLE[self.state]
        if not is_away and (Input.DROPPED not in TABLE[self.state] or end.cause is SessionInput.REPLACED):
            return
        if end.info.user_closed:
            self._peer_closed(dropped)
        elif not is_away:
            self._dial_again_or_give_up(Input.DROPPED, end.decision)
        elif end.cause is SessionInput.REFUSED:
            self.move(Input.REFUSED)  # the next session starts on the same connection
        elif isinstance(end.decision.after, Exception):
            self._give_up(end.decision.after)
        else:
            self.move(Input.LOST)
            assert self._command.dialing is not None
            # If the client has asked to resume, the connection on which it asked is closed now.
            self._command.dialing.start_unless_running()

    def closed_between_sessions(self, info: CloseInfo) -> None:
        if self.state not in AT_REST:
            self._peer_closed(ConnectionLost(info.code, info.reason, "not_sent"))

    def _peer_closed(self, lost: ConnectionLost) -> None:
        """Give up, because the user has called `Peer.close`. Stop what would lead to another connection."""
        self._give_up(lost)
        self._replace_command(UserCommand())

    def will_reconnect(self) -> bool:
        return self.state not in AT_REST

    def _decide(self, info: CloseInfo) -> Decision:
        """Decide what follows a drop, without doing it yet. Count the failure, and log what was decided.

        `ReconnectSchedule` asks the user's `Reconnect`, which may close the client or bind another connection. A client
        without a URL cannot dial. It gives up if ``retry`` says so, or no `bind` follows, and otherwise waits for it.
        """
        command, reconnect = self._command, self.plan.reconnect
        is_last = reconnect is None or command.is_last
        lost, delay = ConnectionLost(info.code, info.reason, "not_sent"), None
        schedule = ReconnectSchedule(reconnect, self.scheduler) if command.dialing is None else command.dialing.schedule
        try:
            if command.dialing is not None:
                delay = command.dialing.delay_after_drop(lost)
            elif not is_last and schedule.may_retry(lost):
                return NO_DECISION
        except Exception as exc:  # raised by a strategy of the user
            return Decision(after=exc)
        if command is not self._command:
            return NO_DECISION
        text = f"the connection ended ({f'{lost.code} {lost.reason}'.rstrip()})"
        if delay is not None:
            self._log_retry(text, delay, quiet=lost.code in (CloseCode.SERVICE_RESTART, CloseCode.RESUMES))
        elif not is_last:
            self.peer_core.log(logging.ERROR, "the client gives up: %s, and %s", text, schedule.why_ended)
        return Decision(delay is not None, lost if delay is None else delay)

    def _dial_again_or_give_up(self, happened: Input, decision: Decision) -> None:
        """Do after a drop what was decided."""
        dialing, after = self._command.dialing, decision.after
        if isinstance(after, Exception):
            self._give_up(after)
        elif dialing is None or after is None:
            self.move(Input.DROPPED_NO_URL)
        else:
            self.move(happened)
            dialing.start(after)

    # ------------------------------------------------------------ dialing

    @property
    def asks_to_resume(self) -> bool:
        """Whether the next connection is to resume the session."""
        return self.peer_session.session.state.away

    @property
    def is_first(self) -> bool:
        """Whether a `connect` waits for its first open connection."""
        return self._command.is_first

    @property
    def may_move(self) -> bool:
        """Whether the session would go on, on another connection."""
        session = self.peer_session.session
        assert isinstance(session, ClientSession)
        return session.may_move

    def dials(self, url: str) -> None:
        """From now on, lines of the log name this URL."""
        self.peer_core.log.url = shown_url(url).strip("'")

    def attempt_started(self) -> None:
        """The delay is over, and the client dials again."""
        self.move(Input.DELAY_OVER)

    def attempt_failed(self, error: Exception, delay: float, *, is_new: bool) -> None:
        """An attempt has failed, and the next one follows. ``is_new``: no recent attempt has failed in the same way."""
        self.move(Input.FAILED)
        text = f"could not connect: {named_with_notes(error)}"
        if self.hooks.has_connected:
            text += f"; no connection for {self.scheduler.time() - self.hooks.lost_at:.0f} s"
        self._log_retry(text, delay, quiet=not is_new)

    def _log_retry(self, text: str, delay: float, *, quiet: bool) -> None:
        self.peer_core.log(logging.INFO if quiet else self._retry_level, "%s; next attempt in %.1f s", text, delay)

    def dialed(self, transport: Transport) -> None:
        """There is a new connection. Ask the server to resume the session, or start a session."""
        self.move(Input.DIALED)
        connection = Connection(transport)
        if self.state == "resuming":
            session, refused = self.peer_session.session, partial(self._start_next_session, self._command)
            assert isinstance(session, ClientSession)
            session.ask_to_resume(connection, refused=refused, failed=self._resume_failed)
        else:
            self._start_next_session(self._command, connection)

    def _start_next_session(self, command: UserCommand, connection: Connection) -> None:
        with suppress(ConnectionLost):
            self._start_session(command, connection)

    def _resume_failed(self, info: CloseInfo) -> None:
        """Dial again, or end the session: the server has not answered the request to resume."""
        command, decision = self._command, self._decide(info)
        if decision.keeps:
            self._dial_again_or_give_up(Input.DETACHED, decision)
        elif command is self._command:  # `session_over` then gives up
            self.peer_session.session.end(SessionInput.ENDED, info.reason, info=info, decision=decision)

    def dialing_gave_up(self, failure: Exception) -> None:
        """There will be no connection. Give up, and fail everything that waits for one."""
        opening = self.peer.transport if self.state == "opening" else None
        command = self._command
        self._give_up(failure)
        session = self.peer_session.session
        if session.state.away:
            session.end(SessionInput.ENDED, f"the client gave up: {failure}")
        elif opening is not None:
            session.end(SessionInput.ENDED, info=CloseInfo(CloseCode.GOING_AWAY, "the client gave up"))
        if command is self._command:  # else a `close` handler has made another one, whose messages wait now
            self.peer_session.drop_waiting(CloseInfo(CloseCode.ABNORMAL, f"the client gave up: {failure}"))
        if not command.is_first:  # else `connect` raises it
            self.peer_core.reporter.notify("error", failure)

    def message_queued(self) -> None:
        self._warn_if_idle("a message waits")

    def _warn_if_idle(self, what: str) -> None:
        """Log a warning the first time that something waits for a connection while the client does not dial."""
        if self.state == "idle" and not self._warned_of_wait:
            self._warned_of_wait = True
            self.peer_core.log(logging.WARNING, NOT_CONNECTING, what)
