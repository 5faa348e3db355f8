"""What a running handler can ask about its call, and what a `message` handler sees."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET

from .._base.names import RAW
from .._base.state import PeerState
from .._protocol.counting import decode_any
from .._protocol.messages import Inbound
from .._streams.reader import Upload
from .._streams.stream import Stream
from ..errors import BadArguments, BadResult, BoundedRepr
from .compiled import injectable

if TYPE_CHECKING:
    from .._channels.anonymous import AnonymousChannel
    from .._channels.core import ChannelCore
    from .._peer.peer import Peer
    from .._server.server import Server

__all__ = ["CURRENT", "Context", "Message", "answer_channel", "current_context", "in_context", "upload_of"]


class Message:
    """One inbound message, as `message` handlers see it. Changing what it returns changes nothing.

    ``payload`` is what arrived, ``text`` whether in a text message. ``event``, ``id``, ``channel_name`` and
    ``args`` are None (``args`` empty) where the message has no such thing, or is foreign. ``args`` is decoded anew each
    time: keep it in a variable if you need it more than once.
    """

    __slots__ = ("_decode", "_done", "_finished", "_head", "payload", "text")

    def __init__(self, payload: bytes, text: bool, decode: Callable[[bytes | bytearray], Inbound] | None) -> None:
        """``decode`` reads ``payload``; None for what is foreign."""
        self.payload = payload
        self.text = text
        self._decode = decode
        self._head: tuple[str | None, int | None, str | None] | None = None
        """Event, id and channel's name, once they were asked for."""
        self._finished = False
        self._done: asyncio.Future[None] | None = None

    @property
    def event(self) -> str | None:
        return self._read_head()[0]

    @property
    def id(self) -> int | None:
        return self._read_head()[1]

    @property
    def channel_name(self) -> str | None:
        return self._read_head()[2]

    @property
    def args(self) -> tuple[Any, ...]:
        return tuple(self._read()[1:])

    def _read_head(self) -> tuple[str | None, int | None, str | None]:
        if self._head is None:
            self._read()
        assert self._head is not None
        return self._head

    def _read(self) -> list[Any]:
        """The event's name and its arguments. They are not kept: decoded, a message may take 70 times as much memory as
        ``payload``, and many may wait for their handlers."""
        fields = Inbound() if self._decode is None else decode_any(self._decode, self.payload)
        a: list[Any] = fields.a if fields.a.__class__ is list else []
        event = a[0] if a and isinstance(a[0], str) else None
        name = fields.c if fields.h is None and isinstance(fields.c, str) else None
        self._head = event, fields.i if fields.i.__class__ is int else None, name
        return a

    async def processed(self) -> None:
        """Wait until the message has been dealt with: its handler, if it has one, is done.

        Cancelling is safe.
        """
        if self._finished:
            return
        if self._done is None:
            self._done = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._done)

    def _finish(self) -> None:
        self._finished = True
        if self._done is not None and not self._done.done():
            self._done.set_result(None)

    def describe(
        self, *, limit: int = 200, redact: Callable[[str, tuple[Any, ...]], tuple[Any, ...]] | None = None
    ) -> str:
        """One line for a log, with at most about ``limit`` characters of arguments.

        ``redact(event, args)`` returns the arguments to show.
        """
        args = self.args  # now the rest is known, too
        event = self.event
        if event is None:
            kind = "foreign message" if self._decode is None else "answer or notice"
            which = "" if self.id is None else f" #{self.id}"
            return f"{kind}{which}, {len(self.payload)} bytes"
        if redact is not None:
            args = redact(event, args)
        shown = ", ".join(_bounded(arg, limit) for arg in args)
        if len(shown) > limit:
            shown = shown[: limit - 1] + "…"
        where = "" if self.channel_name is None else f"{_bounded(self.channel_name, limit)[1:-1]}: "
        kind = "event" if self.id is None else f"request #{self.id}"
        return f"{kind} {where}{_bounded(event, limit)[1:-1]}({shown})"

    def __str__(self) -> str:
        return self.describe()

    def __repr__(self) -> str:
        return f"<Message {self.describe(limit=60)}>"


def _bounded(value: object, limit: int) -> str:
    # A long string is cut before repr() makes a second long string of it; repr() keeps it on one line.
    try:
        return repr(value[:limit]) if isinstance(value, (str, bytes)) else BoundedRepr().repr(value)
    except Exception:  # of what a `redact` function gave, or an argument that middleware has put there
        return f"<{type(value).__name__}>"


@injectable("ctx")
class Context(msgspec.Struct, eq=False, weakref=True):
    """One inbound event or request while its handler runs.

    Annotate a parameter with it, or ask `current_context`. ``peer`` is who sent it; ``cancel_reason`` is
    None until the other side cancels, then what it said.
    """

    peer: Peer
    _message: Inbound
    cancel_reason: Any = None
    message: Message | None = None
    """The message itself, only where a `message` handler observes."""
    _anonymous: ChannelCore | None = None
    """The channel that is, or may become, the answer."""
    _channel: AnonymousChannel | None = None
    """The same, as the handler holds it."""
    _upload: Upload | None = None

    @property
    def event(self) -> str:
        """The event's name; empty for a raw message, which is then the one of ``args``."""
        name: str = self._message.a[0]
        return name

    @property
    def id(self) -> int | None:
        """The request's id; None for an event, which nobody waits for."""
        i = self._message.i
        return None if i is UNSET else i

    @property
    def channel_name(self) -> str | None:
        """The named channel; None for the main one."""
        name = self._message.c
        return name if isinstance(name, str) else None

    @property
    def args(self) -> tuple[Any, ...]:
        """The arguments as they came; a middleware may assign others."""
        return tuple(self._message.a[1:])

    @args.setter
    def args(self, args: Sequence[Any]) -> None:
        self._message.a[1:] = args

    @property
    def state(self) -> PeerState:
        """The peer's state."""
        return self.peer.state

    @property
    def server(self) -> Server:
        """The peer's server.

        Raises:
            RuntimeError: the handler is a client's.
        """
        return self.peer.server

    def channel(self) -> AnonymousChannel:
        """An anonymous channel for the requestor: register handlers on it, then return it as the result.

        The same one each time within a call. It can send once it has been delivered. If something else is returned, it
        is closed and the requestor never hears of it.

        Raises:
            BadArguments: this is an event, which nobody waits for.
            RemoteError: the other side has as many open as `Limits.channels` allows. Let through, it is what the caller
                gets, with the code ``"wsrpc.too_many_channels"``.
        """
        if self._channel is None:
            self._channel = self.peer._anonymous.for_user(self._answer_channel())
        return self._channel

    def _answer_channel(self) -> ChannelCore:
        if self._anonymous is None:
            if self.id is None:
                error = BadArguments(f"{self.event!r} opens a channel, so it has to be requested, and came as an event")
                error._made_here = True
                raise error
            self._anonymous = self.peer._anonymous.make(self.id)
        return self._anonymous

    def _without_surplus(self, a: list[Any], most: int) -> list[Any]:
        """Cut an event's ``a`` to ``most``; a request's is left as it is, to be rejected.

        JavaScript ignores what a function has no parameter for. Nobody would tell the sender of an event that it was
        dropped, and one that is sent with one more argument by a new version should still reach the old handlers.
        """
        if self._message.i is not UNSET:
            return a
        self.peer._calls.count(
            "surplus arguments",
            f"event '{self.label}' came with {len(a) - 1} arguments and its handler takes {most - 1}, so it runs "
            "without the others",
        )
        return a[:most]

    def _incoming(self, convert: Callable[[Any], Any], parameter: str) -> Stream[Any]:
        """What the caller sends with ``send=``."""
        channel = self._answer_channel()
        self._upload = channel.upload()

        def misfit(exc: msgspec.ValidationError) -> BadResult:
            error = BadResult(f"{self.event}(): an item of {parameter!r}: {exc}")
            error._channel = channel  # so that the caller gets it, if the handler lets it through
            return error

        return Stream(self.event, convert, reading=self._upload, misfit=misfit)

    @property
    def label(self) -> str:
        """What is handled, for a log: ``chat:say #7``."""
        if self._message.c == RAW:
            return "a raw message"
        scope = self._message.c if self._message.h is None else self._message.h
        where = "" if scope is None else f"{scope}:"
        which = "" if self.id is None else f" #{self.id}"
        return repr(f"{where}{self.event}{which}")[1:-1]

    def __repr__(self) -> str:
        return f"<Context {self.label} of {self.peer!r}>"


def answer_channel(ctx: Context) -> ChannelCore:
    """Return the channel that is to answer the request of ``ctx``. See `Context.channel`."""
    return ctx._answer_channel()  # pyright: ignore[reportPrivateUsage]


def upload_of(ctx: Context) -> Upload | None:
    """Return the reading of the items that the caller sends, if the handler reads any."""
    return ctx._upload  # pyright: ignore[reportPrivateUsage]


CURRENT: ContextVar[Context] = ContextVar("wsrpc_current")


def in_context(ctx: Context) -> contextvars.Context:
    """A copy of the present context in which ``ctx`` is the current one."""
    context = contextvars.copy_context()
    context.run(CURRENT.set, ctx)
    return context


def current_context() -> Context:
    """The context of the running handler, also in tasks that it started.

    Raises:
        RuntimeError: outside of a handler.
    """
    try:
        return CURRENT.get()
    except LookupError:
        raise RuntimeError("no handler is running here: current_context() works inside handlers") from None
