"""`PeerCore`: the inside of a peer, from one session to the next."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from contextvars import Context
from typing import Any

from ..._base.closing import CloseCode, CloseInfo
from ..._base.logs import PeerLog
from ..._base.references import weakly
from ..._base.scheduler import Scheduler
from ...errors import ConnectionLost
from ...transport import ConnectionInfo
from ..channels.named_channels import NamedChannels
from ..handlers.lifecycle import Closers, Reporter
from ..sending.outbox import Outbox
from ..session.connection import Connection
from ..session.server_session import Home, ServerSession
from ..session.session import NOT_CONNECTED
from .connection_history import ConnectionHistory
from .peer_host import PeerHost
from .peer_owner import PeerOptions, PeerOwner
from .peer_session import PeerSession
from .requester import Requester
from .work import Work


class PeerCore:
    """The inside of a `Peer` from its making to its end, and what it keeps from one session to the next.

    ``current`` is the inside of the present session. It is that of the last session until the next one begins.

    Args:
        peer: the object that users hold.
        owner: what it reports to.
        home: what it has on a server. None on a client.
        log: its log, which has its id.
    """

    __slots__ = (
        "__weakref__",
        "close_calls",
        "current",
        "history",
        "home",
        "host",
        "log",
        "loop",
        "named_channels",
        "options",
        "outbox",
        "owner",
        "reporter",
        "sender",
        "work",
    )

    def __init__(
        self, peer: Any, options: PeerOptions, loop: Scheduler, owner: PeerOwner, home: Home | None, log: PeerLog
    ) -> None:
        settings, own, shared = options.settings, options.own, options.shared
        self.owner = owner
        self.home = home
        self.options = options
        self.loop = loop
        self.history = ConnectionHistory()
        self.log = log
        if settings.between_nodes:
            log.quieten()  # nodes log themselves who comes and goes
        self.reporter = Reporter(peer, (shared, own), loop, log)
        self.host = host = PeerHost(options, loop, log, self.reporter, owner, self.history)
        self.outbox = Outbox(
            host,
            odd=options.dialer,
            expects_session=options.keeps_offline,
            fails_offline=options.fails_offline,
        )
        self.named_channels = NamedChannels(host, (own, shared), self.outbox, survives=options.keeps_offline)
        self.work = self.named_channels.listener = Work(host, self.named_channels)
        self.sender = Requester(self.outbox, host, own, self.named_channels)
        own.inherit(shared, settings.limits.handler_timeout)
        self.close_calls = 0
        """How often this side has closed the peer. If it changes meanwhile, that call decides."""
        self.current: PeerSession
        """The inside of the present session, of the first one, or of the last one."""
        self._make_session(NOT_CONNECTED)

    @property
    def peer(self) -> Any:
        """The object that users hold."""
        return self.reporter.peer()

    @property
    def ignored(self) -> Counter[str]:
        """Numbers of messages that were not handled, by kind."""
        return self.host.ignored

    def _make_session(self, last_close: CloseInfo) -> None:
        """Make the inside of the next session. The last one has ended with ``last_close``."""
        self.current = current = PeerSession(self.host, self.sender, self.work, self.home, last_close)
        self.host.set_session(self, current)
        self.outbox.set_session(current.writer, current.channels.find)
        self.work.set_dispatcher(current.dispatcher)

    # ------------------------------------------------------------ sessions

    def expect(self, info: ConnectionInfo) -> None:
        """Let `Peer.info` and the log tell of a connection that is about to be bound."""
        self.history.connection_expected(info)
        self.log.remote = info.remote

    def check_new(self, connection: Connection) -> Connection:
        """Return ``connection``.

        Raises:
            ValueError: its transport is bound already.
        """
        usable = self.current.session.usable
        if usable is not None and usable.transport is connection.transport:
            raise ValueError("this transport is bound already")
        return connection

    def replace_session(self, connection: Connection) -> PeerSession:
        """End the present session, if there is one, because ``connection`` begins another. Return the inside of that.

        Raises:
            ConnectionLost: a `close` handler has bound another transport meanwhile, or has closed the peer.
                ``connection`` is closed, too.
        """
        before = self.current
        close_calls = self.close_calls
        replaced = CloseInfo(CloseCode.GOING_AWAY, "another connection was bound")
        self._call_close_handlers()
        if self.current is before and before.session.state.lives:
            before.replace(replaced)
            self._call_close_handlers()
        # A `close` handler may have said what is to be. (With eager tasks its first step runs at once.)
        session = self.current.session
        if session.state.lives or self.close_calls != close_calls:
            last = replaced if session.state.lives else session.last_close
            self.reporter.spawn(connection.close(last.code, last.reason))
            raise ConnectionLost(last.code, last.reason, "not_sent")
        if session.over:
            self._make_session(session.last_close)
        return self.current

    def _call_close_handlers(self) -> None:
        """Call the `close` handlers of the last session now, if they wait for anything."""
        self.work.when_events_done(None)
        self.reporter.notify_now()

    def bind(self, connection: Connection) -> None:
        """Begin a session on ``connection``; see `Peer.bind`."""
        self.replace_session(self.check_new(connection)).start(connection)

    def session_ended(self, ended: PeerSession) -> None:
        """Count what is left of the session of ``ended``, which is over, or let go if nothing is left."""
        self.owner.all_ended()
        # What readers still hold counts on, and what handlers hold that were not cancelled.
        session = ended.session
        if isinstance(session, ServerSession) and ended.backlog():
            self.named_channels.unread_memory().on_release = session.memory_changed
            session.update_memory()
        self.release()

    def release(self) -> None:
        """Once nothing is left of the last session, and no other one is expected, only users keep the peer alive.

        Here the circles of the parts of a peer are cut, see `PeerHost`.
        """
        current, host, work = self.current, self.host, self.work
        expects_more = not current.session.over or self.busy or self.outbox.expects_session
        if expects_more or self.outbox.requests or current.backlog():
            return
        dispatcher = current.dispatcher
        dispatcher.context = Context()  # else that of the code that has connected, and of the opening
        current.channels.dispatcher = weakly(dispatcher)
        work.dispatcher, work.named_channels = weakly(dispatcher), weakly(self.named_channels)
        host.core, host.current, host.peer = weakly(self), weakly(current), None
        self.owner.release()

    # ------------------------------------------------------------ its tasks

    @property
    def busy(self) -> bool:
        """Whether something runs for the peer, or waits to be told."""
        return bool(self.work.invocations or self.reporter.running or self.reporter.notifications)

    def any_task(self) -> asyncio.Future[Any] | None:
        """Return a task of this peer that is not done yet, or the thread that it has left behind. None if all ended."""
        calls = ((each.task, each.thread) for each in self.work.invocations)
        unfinished = (each for call in calls for each in call if each is not None and not each.done())
        return next(unfinished, None) or next(iter(self.reporter.running), None)

    async def join(self, patience: float, closers: Closers, still: Callable[[], bool] = lambda: True) -> None:
        """Wait for the handlers and other tasks of this peer, except for ``closers``, which wait for this themselves.

        After ``patience`` seconds cancel them. Cancelling this call only stops the waiting. So does ``still()`` when it
        returns False.
        """
        work = self.work
        work.end_conversations()
        deadline = self.loop.time() + patience
        while still():
            tasks = self.reporter.tasks(closers) | work.tasks(closers)
            if not tasks:
                if work.on_events_done is None and len(self.reporter.notifications) < 2:
                    break
                self._call_close_handlers()  # only handlers that wait for this close are left
                continue
            # A handler that ends makes room for one that waits, so look again.
            late = await closers.wait_for_others(tasks, max(0.0, deadline - self.loop.time()))
            if late and still():
                work.drop_all()
                for task in late:
                    task.cancel()
                stubborn = await closers.wait_for_others(late, patience)
                if count := len(stubborn) + work.threads_running:
                    self.log(logging.WARNING, "%d handlers do not end although they were cancelled", count)
                if stubborn:
                    break
        if still():
            self.outbox.requests.stop_timer()
            self.named_channels.unread_memory().close_late()  # the peer ends, and nobody reads them any more
