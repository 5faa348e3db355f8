"""`PeerCore`: the inside of a peer, from one session to the next."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextvars import Context
from typing import Any

from ..._base.closing import CloseCode, CloseInfo
from ..._base.logs import PeerLog
from ..._base.references import weakly
from ..._base.scheduler import Scheduler
from ...errors import ConnectionLost, one_line
from ...stats import PeerStats
from ...transport import Traffic
from ..channels.named_channels import NamedChannels
from ..handlers.lifecycle import Closers, Reporter
from ..sending.outbox import Outbox
from ..session.connection import Connection
from ..session.peer_host import PeerHost
from ..session.peer_owner import PeerOptions, PeerOwner
from ..session.session import NOT_CONNECTED
from ..session.sessions import Home, ServerSession
from .admission import Admission
from .peer_session import PeerSession
from .requester import Requester


class PeerCore:
    """The inside of a `Peer`, from one session to the next.

    ``current`` is the inside of the present session, or of the last session until the next one starts.

    Args:
        peer: the object that users hold.
        owner: the client, or the server's entry for the peer.
        home: the state of the peer on a server. None on a client.
        log: the log of the peer, which has its id.
    """

    __slots__ = (
        "__weakref__",
        "admission",
        "calls",
        "current",
        "home",
        "host",
        "log",
        "loop",
        "named_channels",
        "options",
        "outbox",
        "owner",
        "reporter",
        "requester",
    )

    def __init__(
        self, peer: Any, options: PeerOptions, loop: Scheduler, owner: PeerOwner, home: Home | None, log: PeerLog
    ) -> None:
        settings, own, shared = options.settings, options.own, options.shared
        self.owner = owner
        self.home = home
        self.options = options
        self.loop = loop
        self.log = log
        if settings.between_nodes or settings.local:
            log.quieten()  # the cluster logs the connections between its nodes
        self.reporter = Reporter(peer, (shared, own), loop, log)
        self.host = host = PeerHost(options, loop, log, self.reporter, owner)
        self.outbox = Outbox(host)
        self.named_channels = NamedChannels(host, self.outbox)
        self.admission = Admission(host, self.named_channels)
        self.calls = self.admission.calls
        own.inherit(shared, settings.limits.handler_timeout)
        self.requester = Requester(self.outbox, host, self.named_channels)
        self.current: PeerSession
        """The inside of the current session, see `PeerHost.current`."""
        self._make_session(NOT_CONNECTED)

    @property
    def peer(self) -> Any:
        """The object that users hold."""
        return self.reporter.peer()

    def stats(self) -> PeerStats:
        """See `Peer.stats`."""
        current, host = self.current, self.host
        connection = current.session.live_connection
        passed = host.traffic(connection)
        return PeerStats(
            id=self.log.id,
            uptime=0.0 if connection is None else host.uptime(),
            **{name: getattr(passed, name, None) for name in Traffic.__struct_fields__},
            unsent_bytes=0 if connection is None else connection.transport.unsent,
            kept_bytes=self.outbox.kept_bytes,
            detached=current.session.state.away,
            slow=connection is not None and current.session.full,
            skipped_broadcasts=host.skipped_broadcasts,
            metadata_not_sent=host.metadata_not_sent,
            pending=len(self.outbox.requests),
            active=self.calls.running,
            waiting=len(self.admission.waiting_room),
            anonymous_channels=len(current.channels),
            errors=self.log.errors,
            ignored=dict(host.ignored),
            program=self.log.program,
            contract=host.contract,
            misfits={f"{one_line(event)}: {kind}": count for (event, kind), count in host.misfits.items()},
            deprecated={one_line(event): count for event, count in host.deprecated.items()},
        )

    def _make_session(self, last_close: CloseInfo) -> None:
        """Make the inside of the next session. The last session ended with ``last_close``."""
        self.current = current = PeerSession(self.host, self.requester, self.admission, self.home, last_close)
        self.host.set_session(self, current)
        self.outbox.writer = current.writer
        self.admission.set_dispatcher(current.dispatcher)

    # ------------------------------------------------------------ sessions

    def check_new(self, connection: Connection) -> Connection:
        """Return ``connection``, unless the present session uses its transport.

        Raises:
            ValueError: the transport is bound already.
        """
        live = self.current.session.live_connection
        if live is not None and live.transport is connection.transport:
            raise ValueError("this transport is bound already")
        return connection

    def replace_session(self, connection: Connection) -> PeerSession:
        """End the present session, if there is one, and return the inside of a new session for ``connection``.

        Raises:
            ConnectionLost: a `close` handler has bound another transport, or has closed the peer.
                ``connection`` is closed, too.
        """
        before = self.current
        close_calls = self.host.close_calls
        replaced = CloseInfo(CloseCode.GOING_AWAY, "another connection was bound")
        self._call_close_handlers()
        if self.current is before and before.session.state.lives:
            before.replace(replaced)
            self._call_close_handlers()
        # A `close` handler may have bound or closed the peer. (With eager tasks, its first step has run already.)
        session = self.current.session
        if session.state.lives or self.host.close_calls != close_calls:
            last = replaced if session.state.lives else session.last_close
            self.reporter.spawn(connection.close(last.code, last.reason))
            raise ConnectionLost(last.code, last.reason, "not_sent")
        if session.over:
            self._make_session(session.last_close)
        return self.current

    def _call_close_handlers(self) -> None:
        """Call the `close` handlers of the last session now, although they may still wait for events."""
        self.admission.when_events_done(None)
        self.reporter.notify_now()

    def bind(self, connection: Connection) -> None:
        """Start a session on ``connection``; see `Peer.bind`."""
        self.replace_session(self.check_new(connection)).start(connection)

    def session_ended(self, ended: PeerSession) -> None:
        """Release the peer, or count the memory that the session of ``ended``, which is over, has left."""
        self.owner.session_released()
        if ended is not self.current:  # a function of the user has bound another transport
            return
        # Readers may have unread messages, and handlers of events run on.
        session = ended.session
        if isinstance(session, ServerSession) and ended.backlog():
            self.named_channels.unread_memory().on_release = session.memory_changed
            session.update_memory()
        self.release()

    def release(self) -> None:
        """Cut the circles between the parts of the peer, so that only users keep it alive. See `PeerHost`.

        Nothing happens while anything of the last session remains, or another session is expected.
        """
        current, host, admission = self.current, self.host, self.admission
        expects_more = not current.session.over or self.busy or self.outbox.expects_session
        if expects_more or self.outbox.requests or current.backlog():
            return
        dispatcher = current.dispatcher
        dispatcher.context = Context()  # drops the context of the code that has connected
        current.channels.dispatcher = weakly(dispatcher)
        admission.dispatcher, admission.named_channels = weakly(dispatcher), weakly(self.named_channels)
        host.core, host.current, host.peer = weakly(self), weakly(current), None
        self.owner.release()

    # ------------------------------------------------------------ its tasks

    @property
    def busy(self) -> bool:
        """Whether handlers or tasks of the peer run, or wait to be called."""
        return bool(self.calls.invocations or self.reporter.running or self.reporter.notifications)

    def any_task(self) -> asyncio.Future[Any] | None:
        """Return a task or a thread of a handler that is not done yet. None if all have ended."""
        calls = ((each.task, each.thread) for each in self.calls.invocations)
        unfinished = (each for call in calls for each in call if each is not None and not each.done())
        return next(unfinished, None) or next(iter(self.reporter.running), None)

    async def wait_active(self, closers: Closers, *, moves: bool = False) -> bool:
        """Wait until one of the things has ended that are active or pending. Return False if there are none.

        One that ends may have started another one, so call this again until it returns False. There is no polling: each
        has a future or event to wait for. Received messages wait only because of calls. Cancelling is safe.

        Args:
            closers: the handlers that wait for the caller. It does not wait for them.
            moves: whether streams with a key do not count, because their callers can read on in other processes.
        """
        current, calls, opening = self.current, self.calls, self.current.opening
        moving = [each for each in calls.invocations if moves and each.movable]
        if opening.running is not None and not closers.cover(opening.tasks[-1], opening.invocations[0]):
            await closers.wait_for_others({opening.running}, None)  # a handler of the opening may begin to close
        elif self.outbox.callers_must_wait:
            await self.outbox.writer.wait_room()
        elif tasks := calls.tasks(closers) - {each.task for each in moving}:
            await closers.wait_for_others(tasks, None)
        elif unfinished := self.outbox.requests.unfinished():
            await asyncio.wait(unfinished)
        elif channels := {*current.channels.all()} - calls.channels(closers) - {each.channel for each in moving}:
            await channels.pop().wait_closed()
        else:
            return False
        return True

    async def join(self, patience: float, closers: Closers, still: Callable[[], bool] = lambda: True) -> None:
        """Wait for the handlers and other tasks of this peer, and cancel them after ``patience`` seconds.

        Cancelling this call only stops the waiting.

        Args:
            closers: the handlers that wait for this call. It does not wait for them.
            still: the waiting stops when this function returns False.
        """
        admission, calls = self.admission, self.calls
        calls.end_conversations()
        deadline = self.loop.time() + patience
        while still():
            tasks = self.reporter.tasks(closers) | calls.tasks(closers)
            if not tasks:
                if admission.on_events_done is None and len(self.reporter.notifications) < 2:
                    break
                self._call_close_handlers()  # only handlers that wait for this call remain
                continue
            # A handler that ends makes room for a message that waits, so check again.
            late = await closers.wait_for_others(tasks, max(0.0, deadline - self.loop.time()))
            if late and still():
                admission.drop_all()
                for task in late:
                    task.cancel()
                stubborn = await closers.wait_for_others(late, patience)
                if count := len(stubborn) + calls.threads_running:
                    self.log(logging.WARNING, "%d handlers do not end although they were cancelled", count)
                if stubborn:
                    break
        if still():
            self.outbox.requests.stop_timer()
            self.named_channels.unread_memory().close_late()  # the peer ends
