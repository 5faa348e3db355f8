"""`Invocation`: one call of a handler."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, NamedTuple, TypeVar, cast
from weakref import ref

import msgspec
from msgspec import UNSET

from ...errors import BadArguments, ChannelClosed, made_here
from ..inboxes.item_inboxes import UploadInbox
from ..wire.counting import memory_of
from ..wire.messages import WireMessage, context_of
from ..wire.nodes import ID, Place, read_place
from ..wire.rejections import bounded_reason
from .observation import Message

if TYPE_CHECKING:
    from ..channels.channel_core import ChannelCore
    from ..peer.dispatcher import Dispatcher
    from .compiled import Handler

C = TypeVar("C")
T = TypeVar("T")

BYTES_PER_CALL = 4 * 1024
"""Approximate bytes that a running handler, an open channel or a pending request takes, without its message."""


class CallState(enum.Enum):
    """State of one call of a handler. The attributes of a state say how a call in this state is handled.

    A call only moves to a later state; see `ActiveCalls.move`. Calls for events have the same states, although no
    remote peer waits for them, and they are not answered.
    """

    # meaning; counts as; its bytes count as those of; the remote peer waits; may be answered; is cancelled
    RUNNING = ("its handler runs", "handler", "handler", True, True, False)
    RESERVED = ("its handler runs, and is known to answer with a channel", "handler", "channel", True, True, False)
    SERVING = ("its answer was a channel, on which its handler runs", "channel", "channel", True, False, False)
    CHANNEL_ENDED = ("its channel has ended, and its handler still runs", "handler", "handler", False, False, False)
    CANCELLED = ("it was cancelled, or the channel of its request has ended", "handler", "handler", False, True, True)
    ORPHANED = ("it was cancelled, and can no longer be answered", "handler", "handler", False, False, True)
    EXITED = ("its handler has exited", None, None, False, False, False)

    def __init__(
        self,
        meaning: str,
        counts_as: Literal["handler", "channel"] | None,
        bytes_of: Literal["handler", "channel"] | None,
        awaited: bool,
        answerable: bool,
        cancelled: bool,
    ) -> None:
        self.order = len(type(self).__members__)
        self.meaning = meaning
        self.counts_as = counts_as
        """Whether the call counts towards `Limits.running` or towards `Limits.channels`."""
        self.bytes_of = bytes_of
        """Whether the message counts towards the bytes of handlers or of channels. Each has `Limits.running_bytes`."""
        self.awaited = awaited
        """Whether the remote peer waits for the call."""
        self.answerable = answerable
        """Whether its request may still be answered, with a result or a rejection."""
        self.cancelled = cancelled


# Constants, because Python 3.11 looks members of an enum up slowly, and each call needs these.
_RUNNING, _CANCELLED, _ORPHANED, EXITED = CallState.RUNNING, CallState.CANCELLED, CallState.ORPHANED, CallState.EXITED


class Earlier(NamedTuple):
    """What the attempts before have yielded, as it arrives at a caller.

    Attributes:
        items: the items that are kept.
        complete: whether these are all of them.
    """

    items: list[Any]
    complete: bool


class InboxMessage(NamedTuple, Generic[T]):
    """A message for a run.

    Attributes:
        value: what `Stream.send` has sent, as the handler declares it.
        id: the id that the sender has given it, or a random one.
        principal: `Peer.principal` of the sender, if it is a string or an integer. Otherwise None.
    """

    value: T
    id: str
    principal: str | int | None


class KeyedRun(msgspec.Struct, eq=False):
    """What the handler of a call with a key knows of its run."""

    key: str
    attempt: int = 1
    read_earlier: Callable[[], Awaitable[Earlier]] | None = None
    """Reads what the attempts before have yielded. None for the first attempt."""
    inbox: AsyncIterator[InboxMessage[Any]] | None = None
    """The messages for the run, if the handler declares them."""
    readers: int = 1
    """The number of readers in all processes, as far as this process knows."""


class Invocation(msgspec.Struct, eq=False):
    """One call of a handler for an inbound event or request.

    A request that is not answered with a channel is answered when its handler exits: with its result or its exception.
    A cancelled request whose handler raised CancelledError is rejected. An orphaned request is not answered.
    """

    context_class: ClassVar[type[Any]]
    """The class of `context`; see `shows`."""
    stream_class: ClassVar[type[Any]]
    """The class `Stream`, through which handlers read what their callers send."""

    peer: Any
    """The `Peer` that the message came from."""
    inbound: WireMessage
    dispatcher: Dispatcher = cast("Dispatcher", None)
    """The dispatcher of the session in which the message arrived. None for lifecycle handlers: no message calls them,
    and they have no layers, channels or lanes, for which a dispatcher is needed."""
    size: int = 0
    """Bytes of the message."""
    view: Message | None = None
    """The message as `message` handlers see it. None without such a handler."""
    handler: Handler | None = None
    """None if there is no handler for the message."""
    channel: ChannelCore | None = None
    """The channel that the handler has made, or that answers its request; see `make_channel`."""
    user_channel: Any = None
    """The `AnonymousChannel` for ``channel``, once the handler has asked for it."""
    delivered_channel: ChannelCore | None = None
    """``channel``, once the request was answered with it. The handler runs on this channel."""
    state: CallState = _RUNNING
    upload: UploadInbox | None = None
    """Reads the items that the caller sends, if the handler has a parameter for them."""
    task: asyncio.Task[None] | None = None
    """The task that runs the handler, if the call takes time. None until the task is made, and during the first step of
    an eager task."""
    cancel_reason: Any = None
    deadline: float | None = None
    """When the time of the caller is over. None if the caller has set no limit."""
    thread: asyncio.Future[Any] | None = None
    """The thread of a ``thread=True`` handler. It runs on after a cancellation."""
    lane: asyncio.Lock | None = None
    """The lock of its lane, which the call holds or waits for."""
    waits: bool = False
    """Whether the handler has not started, because it waits for its lane."""
    keyed: KeyedRun | None = None
    """What the handler knows of the run, if the call has a key."""
    movable: bool = False
    """Whether its caller can read on in another process, because the items are in a common store."""
    shown: ref[Any] | None = None
    """Refers to the `context` of the user's code. None until the code asks for one."""
    _memory: int | None = None

    @property
    def memory(self) -> int:
        """Approximate bytes of memory of the call with its decoded message. Measured at the first use."""
        if self._memory is None:
            self._memory = BYTES_PER_CALL + memory_of(self.inbound.a)
        return self._memory

    @classmethod
    def shows(cls, context_class: type[C]) -> type[C]:
        """Class decorator. `context` is an object of the decorated class."""
        cls.context_class = context_class
        return context_class

    @property
    def context(self) -> Any:
        """The `Context` for the user's code. It stays the same object while the code holds it.

        A context refers to its invocation. The invocation refers weakly to the context, because otherwise each call
        would be a reference cycle.
        """
        context = None if self.shown is None else self.shown()
        if context is None:
            context = self.context_class(self)
            self.shown = ref(context)
        return context

    @property
    def event(self) -> str:
        name: str = self.inbound.a[0]
        return name

    @property
    def id(self) -> int | None:
        i = self.inbound.i
        return None if i is UNSET else i

    @property
    def channel_name(self) -> str | None:
        name = self.inbound.c
        return name if isinstance(name, str) else None

    @property
    def place(self) -> Place | None:
        """To whom this node of a cluster passes the message on. None if it is for this side."""
        name = self.channel_name
        return read_place(name) if name is not None and self.dispatcher.answers.host.settings.between_nodes else None

    @property
    def label(self) -> str:
        """The event in the words of a log line: ``chat:say #7``."""
        event = self.full_event if self.inbound.h is None else f"{self.inbound.h}:{self.event}"
        which = "" if self.id is None else f" #{self.id}"
        return repr(f"{event}{which}")[1:-1]

    @property
    def full_event(self) -> str:
        """The event with its named channel: ``chat:say``."""
        name = self.channel_name if (place := self.place) is None else place.channel
        return self.event if name is None else f"{name}:{self.event}"

    def log_fields(self) -> dict[str, object]:
        """Return the fields of a log record about the call, without the numbers that make each label another one."""
        context, place = context_of(self.inbound), self.place
        return {
            "event": self.full_event or None,
            "trace": None if context is None or context.metadata is UNSET else context.metadata.get("traceparent"),
            **({} if place is None or place.address.startswith(ID) else {"address": place.address}),
        }

    def make_channel(self) -> ChannelCore:
        """Return the channel that may answer the request. The first call makes it.

        Raises:
            BadArguments: the message is an event, which has no answer.
            RemoteError: there is no room for another channel.
        """
        if self.channel is None:
            if self.id is None:
                text = f"{self.event!r} opens a channel, so it has to be requested, and came as an event"
                raise made_here(BadArguments(text))
            self.channel = self.dispatcher.channels.make(self.id)
        return self.channel

    def without_surplus(self, a: list[Any], most: int) -> list[Any]:
        """Return ``a`` cut to ``most`` values, for an event. Return it unchanged for a request, which is then rejected.

        JavaScript also ignores arguments for which a function has no parameter. If such events were dropped, their
        senders would not notice. And old handlers should get the events of a new version that sends one more argument.
        """
        if self.id is not None:
            return a
        text = (
            f"event '{self.label}' came with {len(a) - 1} arguments and its handler takes {most - 1}, so it runs "
            "without the others"
        )
        self.dispatcher.answers.host.count("surplus arguments", text, call=self.log_fields)
        return a[:most]

    def read_items(self, convert: Callable[[Any], Any], parameter: str) -> Any:
        """Return the stream of items that the caller sends with ``send=``. ``parameter`` is for error texts."""
        self.upload = UploadInbox(self.make_channel())
        return self.stream_class(self.event, convert, reading=self.upload, parameter=parameter)

    # ------------------------------------------------------------ while the handler runs

    @property
    def is_current(self) -> bool:
        """Whether its task runs now. True in the first step of an eager task, where the task is not known yet."""
        try:
            return self.task is None or asyncio.current_task() is self.task
        except RuntimeError:
            return False

    @property
    def is_calling(self) -> bool:
        """Whether the current code is the handler itself, in its task or its thread, and not a task that it started."""
        if self.state is EXITED:
            return False
        in_thread = self.handler is not None and self.handler.thread
        return in_thread or self.is_current

    @property
    def awaited(self) -> bool:
        """Whether the call is for a request, and the remote peer waits for its answer."""
        return self.id is not None and self.state.awaited

    def enter(self, state: CallState) -> None:
        """Move to a later state, and count the call in the way of this state."""
        self.dispatcher.calls.move(self, state)

    def cancel(self, reason: object, state: CallState = _CANCELLED) -> None:
        """Cancel the handler, unless it is cancelled already or has exited."""
        if self.state.cancelled or self.state is EXITED:
            return
        self.enter(state)
        self.cancel_reason = reason
        if self.task is not None:
            self.task.cancel(bounded_reason(reason))

    def cancellation(self) -> asyncio.CancelledError:
        """Return the exception for a cancelled handler, for places where asyncio does not raise it."""
        return asyncio.CancelledError(bounded_reason(self.cancel_reason))

    def is_stopped_by(self, exc: BaseException) -> bool:
        """Return whether the handler ends with ``exc`` because the application has cancelled its task."""
        stopped = isinstance(exc, asyncio.CancelledError) and not self.state.cancelled
        return stopped and self.task is not None and self.task.cancelling() > 0

    def orphan(self, reason: object) -> None:
        """Cancel the handler, because its request can no longer be answered."""
        if self.state.cancelled:
            self.enter(_ORPHANED)
        else:
            self.cancel(reason, _ORPHANED)

    def record_orphaned(self, reason: object) -> None:
        """Record that the request can no longer be answered. The caller raises `cancellation` in the handler."""
        if not self.state.cancelled:
            self.cancel_reason = reason
        self.enter(_ORPHANED)

    def remove_from_active(self) -> None:
        """Remove the request from the requests that await an answer. Idempotent."""
        i, active = self.inbound.i, self.dispatcher.active
        if active.get(i) is self:
            del active[i]

    def release(self) -> None:
        """Drop references to messages, because the handler has exited.

        The `contextvars` context refers to this object, and asyncio keeps the context of a cancelled timer until the
        timer would have ended. The values that a `Context` shows stay while the user keeps the `Context`.
        """
        self.task = self.thread = self.upload = self.delivered_channel = None
        self.channel = None if self.user_channel is None else self.channel
        if self.shown is None or self.shown() is None:
            self.inbound.a = self.inbound.a[:1]
            self.view = self.cancel_reason = None

    def release_lane(self) -> None:
        """Release the lane, so that its next handler runs. Idempotent."""
        lane, self.lane = self.lane, None
        if lane is not None:
            lane.release()

    def notices_end(self, exc: BaseException) -> bool:
        """Return whether a conversation's body raised ``exc`` because the remote peer has ended its channel."""
        channel = self.delivered_channel
        if channel is None or not channel.over or channel.ended_here:
            return False
        return exc is channel.error or (isinstance(exc, ChannelClosed) and exc.channel == str(channel.id))


CURRENT: ContextVar[Invocation] = ContextVar("wsrpc_current")

Call = Callable[[Invocation, list[Any]], Any]
"""The compiled call of a handler. Its parameters are the invocation, and the event's name with the arguments as they
arrived."""
