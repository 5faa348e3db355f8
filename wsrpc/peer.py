"""The symmetric core: one end of a connection, whichever side dialed.

Synchronous inside: text in → handlers started, futures settled, text out. There is no socket, no await on
the network and no clock of its own here; the event loop's services come in from outside. So a peer can be
driven by a transcript, and a message that needs no task gets none.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import Counter, deque
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import msgspec
from msgspec import UNSET

from ._calls import Calls, Hold
from ._close import CloseCode, CloseInfo, check_close
from ._codec import Codec
from ._context import Context, Message
from ._lifecycle import Opening, State, Unfinished, acting_in, call_handler, finish_all, fire, move
from ._messages import MAX_ID, Inbound, channel_id, is_id
from ._outbound import Outbound
from ._registry import Registry
from ._rejections import BAD_ARGUMENTS, reason_from_wire
from ._scheduler import Scheduler
from ._session import Session
from ._signature import injectable
from ._types import RESERVED_EVENTS, check_name
from .caller import Caller
from .channel import Channel
from .errors import BadArguments, BadResult, ConnectionLost, ProtocolError, QueueFull, RemoteError
from .limits import Limits
from .router import Registrar
from .transport import ConnectionInfo, Transport

__all__ = ["Peer", "Settings"]

logger = logging.getLogger("wsrpc")

MINUTE = 60.0


class Settings(msgspec.Struct, frozen=True):
    """What all peers of a server, or all connections of a client, have in common."""

    codec: Codec
    limits: Limits
    expose_errors: bool | Callable[[BaseException], bool] = False


@injectable("ctx.peer")
class Peer(Registrar, Caller):
    """One end of a connection. A server's handlers get one for each client; a client has one of its own.

    ``id`` names it in logs; ``state`` is the application's own mapping; ``ignored`` counts what the protocol
    says to ignore, by kind.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        dialer: bool,
        registry: Registry | None = None,
        shared: Registry | None = None,
        loop: Scheduler,
        keeps_offline: bool = False,
    ) -> None:
        self.id = secrets.token_hex(8)
        self.state: dict[str, Any] = {}
        self.ignored: Counter[str] = Counter()
        self._limits = limits = settings.limits
        self._codec = codec = settings.codec
        # Four bytes are the most that a character takes, so that nearly no name needs encoding to be measured.
        self._short_name = limits.name // 4
        self._most_arguments = limits.arguments + 1
        self._decode: Callable[[Any], Inbound] = codec.decode
        self._text = codec.text
        self._dialer = dialer
        self._registry = Registry() if registry is None else registry
        self._shared = Registry() if shared is None else shared
        self._channel_name = None
        self._channels: dict[str, Channel] = {}
        self._loop = loop
        self._session: Session | None = None
        self._condition = State.DISCONNECTED
        self._opening: Opening | None = None
        self._background: set[asyncio.Task[None]] = set()
        self._malformed_at: deque[float] = deque(maxlen=limits.undecodable + 1)
        self._aborted: dict[int, None] = {}
        self._ended: asyncio.Future[None] | None = None
        self.on_lost: Callable[[CloseInfo], CloseInfo] | None = None
        self._out = self._sender = Outbound(
            self,
            codec,
            limits,
            self._registry,
            loop,
            odd=dialer,
            keeps_offline=keeps_offline,
            ignored=self.ignored,
            fail=self._fail,
            warn=partial(self.log, logging.WARNING),
        )
        self._calls = Calls(
            self,
            self._registry,
            self._shared,
            reply=self._out.reply,
            codec=codec,
            limits=limits,
            loop=loop,
            expose_errors=settings.expose_errors,
        )

    # ------------------------------------------------------------ what users see

    @property
    def connected(self) -> bool:
        """Whether there is a connection over which messages can be sent."""
        return self._condition is State.OPEN or self._condition is State.OPENING

    @property
    def info(self) -> ConnectionInfo:
        """What the opening handshake told: path, headers, remote address and so on.

        Raises:
            ConnectionLost: if there is no connection.
        """
        if self._session is None:
            raise ConnectionLost(self._out.ending.code, self._out.ending.reason, "not_sent")
        return self._session.transport.info

    @property
    def transport(self) -> Transport | None:
        """The transport of the connection; None if there is none."""
        return None if self._session is None else self._session.transport

    @property
    def pending(self) -> int:
        """Requests sent from here that await their answer."""
        return len(self._out.requests)

    @property
    def active(self) -> int:
        """Handlers that are running for the other side."""
        return self._calls.running

    def get(self, key: str, default: Any = None) -> Any:
        """``state.get``, by the name that ws-wrapper gives it."""
        return self.state.get(key, default)

    def set(self, key: str, value: Any) -> None:
        """``state[key] = value``, by the name that ws-wrapper gives it."""
        self.state[key] = value

    def of(self, name: str, *, ordered: bool = False) -> Channel:
        """The named channel, on this peer alone; the same object each time until it is closed.

        ``ordered``: handlers registered on it from now on run one after another.
        """
        check_name("a channel's name", name)
        channel = self._channels.get(name)
        if channel is None:
            channel = self._channels[name] = Channel(name, self._out, self._registry, self._forget_channel)
        scope = self._registry.scope(name)
        scope.ordered = scope.ordered or ordered
        return channel

    def _forget_channel(self, name: str) -> None:
        self._channels.pop(name, None)
        self._registry.remove_scope(name)

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """End the connection: what was accepted is written, then the Close frame; returns when it is over.

        Cancelling is safe, the closing goes on.

        Raises:
            ValueError: if the code may not be sent or the reason has more than 123 bytes.
        """
        check_close(code, reason)
        self._out.user_closed = True
        session = self._session
        if session is None:
            self._out.ending = CloseInfo(code, reason, user_closed=True)
            self._out.discard(self._out.ending)
            return
        if self._condition is not State.CLOSING:
            self._out.ending = CloseInfo(code, reason, user_closed=True)
            self._become(State.CLOSING)
        await session.transport.close(code, reason)

    async def wait_closed(self) -> None:
        """Wait until there is no connection. Cancelling is safe."""
        if self._session is None:
            return
        if self._ended is None:
            self._ended = self._loop.create_future()
        await asyncio.shield(self._ended)

    def __repr__(self) -> str:
        remote = None if self._session is None else self._session.transport.info.remote
        where = "" if remote is None else f" remote={remote[0]}:{remote[1]}"
        return f"<Peer {self.id} {self._condition.value}{where} pending={self.pending} active={self.active}>"

    # ------------------------------------------------------------ a connection comes and goes

    def bind(self, transport: Transport) -> None:
        """Take ``transport`` as the connection; a live one is closed with 1001 and what was pending fails.

        `open` handlers are called here; those that are coroutines run on, see `wait_opened`.
        """
        if self._session is not None:
            old, why = self._session.transport, "another connection was bound"
            self._lose(CloseInfo(CloseCode.GOING_AWAY, why))
            self._in_background(old.close(CloseCode.GOING_AWAY, why))
        self._out.user_closed = False
        self._session = session = Session(transport, self)
        self._become(State.OPENING)
        # Requests must pass on one side, or two Python ends would wait for each other's `open` handlers.
        self._calls.hold(Hold.EVENTS if self._dialer else Hold.ALL)
        with acting_in(Context(self, Inbound(a=["open"]))):
            unfinished = self._fire(("open", "connect"))
            if unfinished:
                self._opening = Opening(
                    unfinished,
                    loop=self._loop,
                    patience=self._limits.open_handlers,
                    done=self._opened,
                    overdue=self._open_overdue,
                    raised=self._handler_raised,
                )
                self._keep(self._opening.task)
        if self._session is session:  # a handler may have closed or bound again
            session.start()
            if self._opening is None:
                self._opened()

    async def wait_opened(self) -> None:
        """Wait until `open` handlers are done or overdue, or the connection is gone. Cancelling is safe."""
        if self._opening is not None:
            await self._opening.wait()

    def _opened(self) -> None:
        self._opening = None
        if self._condition is not State.OPENING:
            return
        try:
            self._out.flush_offline()
        except ConnectionLost:
            return  # it has ended, and `connection_lost` is about to come; what was not sent stays queued
        self._become(State.OPEN)
        self._calls.hold(Hold.NONE)

    def _open_overdue(self, handlers: str) -> None:
        self.log(
            logging.WARNING,
            "the handler of 'open' %s has not finished within %g s: what waited for it is let through",
            handlers,
            self._limits.open_handlers,
        )

    def read_ended(self) -> None:
        """The read from the network that brought these messages is over."""
        self._calls.read_ended()

    def pause_sending(self) -> None:
        """The transport holds more unsent bytes than its high-water mark."""
        self._out.line.full = True
        self._out.update_clear()
        self._calls.set_line_full(True)

    def resume_sending(self) -> None:
        """The transport has drained."""
        self._out.line.full = False
        self._calls.set_line_full(False)
        self._out.line.wake()
        self._out.update_clear()

    def connection_lost(self, info: CloseInfo, /) -> None:
        """The connection is over."""
        self._lose(info)

    def _lose(self, info: CloseInfo) -> None:
        session = self._session
        if session is None:
            return
        session.detach()
        self._session = None
        self._become(State.DISCONNECTED)
        info = msgspec.structs.replace(info, user_closed=self._out.user_closed)
        if self.on_lost is not None:
            info = self.on_lost(info)
        self._out.ending = info
        if self._opening is not None:
            self._opening.cancel()
            self._opening = None
        self._out.connection_lost(info)
        self._calls.connection_lost(ConnectionLost(info.code, info.reason))
        self._aborted.clear()
        self._run_on(self._fire(("close", "disconnect"), info))
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)
        self._ended = None

    async def join(self, patience: float) -> None:
        """Wait for handlers and whatever else this peer started; after ``patience`` seconds cancel it."""
        tasks = self._calls.tasks() | self._background
        tasks.discard(asyncio.current_task())
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=patience)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)
        self._out.requests.stop()

    # ------------------------------------------------------------ inbound

    def receive(self, payload: bytes | bytearray, text: bool, /) -> None:
        """One message, from the transport. Nothing is raised, whatever it is."""
        if text is not self._text:
            self._foreign(payload, text)
            return
        try:
            message = self._decode(payload)
        except Exception as exc:
            # A codec may be a user's; whatever it raises means that this is no message.
            self._not_decoded(bytes(payload), text, exc)
            return
        if text and not payload.isascii() and not _is_utf8(payload):
            self._fail(CloseCode.INVALID_DATA, "a text message that is not UTF-8")  # RFC 6455, section 8.1
            return
        if len(payload) > self._limits.depth and self._codec.nests_deeper(bytes(payload), self._limits.depth):
            self._fail(CloseCode.INVALID_DATA, f"nested more than {self._limits.depth} deep")
            return
        if message.ours is False:
            self._foreign(payload, text)
            return
        observed = self._registry.observed or self._shared.observed
        view = self._observe(payload, text, message) if observed else None
        a = message.a
        i = message.i
        if a.__class__ is list and a:
            if (
                (i is UNSET or (i.__class__ is int and 0 < i <= MAX_ID))
                and message.c is None
                and message.h is None
                and a[0].__class__ is str
                and len(a[0]) <= self._short_name
                and len(a) <= self._most_arguments
            ):
                if self._calls.busy:
                    self._calls.arrived(message, payload, view)
                else:
                    self._calls.dispatch(message, view)
            else:
                self._examine(message, payload, view)
            return
        if i.__class__ is int and i > 0 and a is UNSET and message.x is UNSET:
            self._answered(message)
        else:
            self._notice(message)
        if view is not None:
            view._finish()

    def _examine(self, message: Inbound, payload: bytes | bytearray, view: Message | None) -> None:
        """An event or a request that is not the plainest kind: refuse what cannot reach a handler."""
        i = message.i
        a = message.a
        name = a[0]
        channel = message.c
        if i is not UNSET and not is_id(i):
            self._malformed("a request whose id is not an integer from 1 to 2^53-1")
        elif i is not UNSET and self._calls.knows(i):
            # A rejection would settle the first one, which is still being worked on.
            self.ignored["duplicate id"] += 1
        elif message.h is not None:
            self._on_unknown_channel(message)
        elif name.__class__ is not str:
            self._refuse(message, f"an event's name is text, got {type(name).__name__}")
        elif channel is not None and channel.__class__ is not str:
            self._refuse(message, f"Channel '{_short(channel)}' does not exist")
        elif len(a) > self._most_arguments:
            self._refuse(message, f"got {len(a) - 1} arguments, at most {self._limits.arguments} are accepted")
        elif self._too_long(name) or (channel is not None and self._too_long(channel)):
            self._refuse(message, f"a name of more than {self._limits.name} bytes")
        elif channel == "" and name in RESERVED_EVENTS:
            self.ignored["reserved event"] += 1
        else:
            self._calls.arrived(message, payload, view)
            return
        if view is not None:
            view._finish()

    def _too_long(self, name: str) -> bool:
        return len(name) > self._short_name and len(name.encode()) > self._limits.name

    def _refuse(self, message: Inbound, why: str) -> None:
        if message.i is UNSET:
            self._malformed(why)
        else:
            self._calls.reject(message.i, BadArguments(why, BAD_ARGUMENTS))

    def _on_unknown_channel(self, message: Inbound) -> None:
        """Answer what is said on an anonymous channel that is not there, so that the other side stops."""
        h = channel_id(message.h)
        error = RemoteError(f"Anonymous channel '{_short(message.h) if h is None else h}' does not exist")
        if h is not None and h not in self._aborted:
            self._aborted[h] = None
            if len(self._aborted) > self._limits.pending:
                del self._aborted[next(iter(self._aborted))]
            self._out.abort_channel(h, error)
        if message.i is not UNSET:
            self._calls.reject(message.i, error)

    def _answered(self, message: Inbound) -> None:
        known = self._out.requests.settle(message) is not None
        if message.h and message.e is UNSET and (known or self._out.requests.was_given_up(message.i)):
            self._out.answered_by_channel(message)
        elif not known:
            self.ignored["answer to no request"] += 1

    def _notice(self, message: Inbound) -> None:
        """Neither event nor request nor answer: a cancellation, an abort, or no message at all."""
        x = message.x
        if message.i.__class__ is int and message.a is UNSET and x is UNSET:
            # Ids of 0 and below are nobody's: JavaScript answers an event with -1 when its handler returns null.
            self.ignored["answer to no request"] += 1
        elif x is UNSET or message.a is not UNSET:
            self._malformed("an object that is no message")
        elif message.h is not None:
            self.ignored["abort of no channel"] += 1
        elif not is_id(message.i) or not self._calls.cancel(message.i, reason_from_wire(x, message.flag)):
            self.ignored["cancellation of no request"] += 1

    def _observe(self, payload: bytes | bytearray, text: bool, message: Inbound | None) -> Message | None:
        """Show a message to the `message` handlers, where there are any."""
        if not (self._registry.observed or self._shared.observed):
            return None
        # Decoded once more, so that a handler of `message` cannot change what the event's own handler gets.
        view = Message(bytes(payload), text, None if message is None else self._decode(payload))
        self._run_on(self._fire(("message",), view))
        return view

    def _foreign(self, payload: bytes | bytearray, text: bool) -> None:
        self.ignored["foreign"] += 1
        view = self._observe(payload, text, None)
        if view is not None:
            view._finish()

    def _not_decoded(self, payload: bytes, text: bool, exc: Exception) -> None:
        if isinstance(exc, RecursionError):
            self._fail(CloseCode.INVALID_DATA, f"nested more than {self._limits.depth} deep")
            return
        if text and not _is_utf8(payload):
            self._fail(CloseCode.INVALID_DATA, "a text message that is not UTF-8")
            return
        claimed = self._codec.claims(payload)
        saved = self._codec.rescue(payload) if claimed else None
        if not claimed or (saved is not None and saved.ours is False):
            self._foreign(payload, text)
            return
        view = self._observe(payload, text, None)
        if view is not None:
            view._finish()
        self._malformed(f"a message that does not decode: {exc}")
        if saved is None or not is_id(saved.i) or saved.x is not UNSET:
            return
        # Somebody may be waiting: for an answer from here, or for the answer that this was.
        if isinstance(saved.a, list):
            if not self._calls.knows(saved.i):
                self._calls.reject(saved.i, BadArguments(f"the message does not decode: {exc}", BAD_ARGUMENTS))
        else:
            pending = self._out.requests.find(saved.i)
            if pending is not None and pending.sent:
                self._out.requests.fail(pending, BadResult(f"the answer to {pending.event!r} does not decode: {exc}"))

    def _malformed(self, why: str) -> None:
        """Count what looks like a message and is none; too many in a minute end the connection."""
        self.ignored["malformed"] += 1
        self._run_on(self._fire(("error",), ProtocolError(f"ignored {why}")))
        times = self._malformed_at
        now = self._loop.time()
        times.append(now)
        if len(times) == times.maxlen and now - times[0] < MINUTE:
            self._fail(CloseCode.INVALID_DATA, f"more than {self._limits.undecodable} malformed messages a minute")

    def _fail(self, code: int, reason: str) -> None:
        """End the connection because of what the other side did; what it still sends is not looked at."""
        session = self._session
        if session is None or self._condition is State.CLOSING:
            return
        self.log(logging.WARNING, "closing the connection with %d: %s", code, reason)
        self._out.ending = CloseInfo(code, reason)
        self._become(State.CLOSING)
        session.stop_receiving()
        self._run_on(self._fire(("error",), ProtocolError(reason)))
        self._in_background(session.transport.close(code, reason))

    def deliver(self, payload: bytes) -> None:
        """Send a message that was encoded for many peers; a peer that reads too slowly is closed with 4408.

        Raises:
            ConnectionLost: there is no connection.
            QueueFull: this peer is at its hard cap.
        """
        try:
            self._out.send_nowait(payload)
        except QueueFull:
            self._fail(CloseCode.SLOW_CONSUMER, "slow consumer")
            raise

    def run_in_background(self, event: str, function: Callable[..., Any], /, *args: object) -> None:
        """Call a user's function, sync or async; what it raises goes to the log."""
        self._run_on(call_handler(event, function, args, self._handler_raised))

    # ------------------------------------------------------------ housekeeping

    def _become(self, condition: State) -> None:
        self._condition = move(self._condition, condition)
        self._out.move(condition, self._session)

    def _fire(self, names: tuple[str, ...], *args: object) -> list[Unfinished]:
        return fire((self._shared, self._registry), names, (self, *args), self._handler_raised)

    def _run_on(self, unfinished: list[Unfinished]) -> None:
        if unfinished:
            self._in_background(finish_all(unfinished, self._handler_raised))

    def _handler_raised(self, event: str, name: str, exc: BaseException) -> None:
        self.log(logging.ERROR, "the handler of %r, %s, failed", event, name, exc_info=exc)

    def _in_background(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self._keep(self._loop.spawn(coroutine))

    def _keep(self, task: asyncio.Task[None]) -> None:
        if not task.done():
            self._background.add(task)
            task.add_done_callback(self._background.discard)

    def log(self, level: int, text: str, /, *args: object, exc_info: BaseException | None = None) -> None:
        """A line in the log ``wsrpc``, with this peer's id in ``extra``."""
        logger.log(level, text, *args, exc_info=exc_info, extra={"peer": self.id})


def _is_utf8(payload: bytes | bytearray) -> bool:
    try:
        payload.decode()
    except UnicodeDecodeError:
        return False
    return True


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 100 else f"{text[:99]}…"
