"""`Invocation`: one call of a handler."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, ClassVar, TypeVar
from weakref import ref

import msgspec
from msgspec import UNSET

from .._base.names import RAW
from .._protocol.messages import WireMessage
from .._streams.inbox import Upload
from .._streams.stream import Stream
from ..errors import BadArguments, BadResult, bad_item, made_here
from .observation import Message

__all__ = ["CURRENT", "Invocation"]

C = TypeVar("C")


class Invocation(msgspec.Struct, eq=False):
    """One inbound event or request while its handler runs.

    The classes of what it holds for users lie in higher layers, and so do those of channels.
    """

    context_class: ClassVar[type[Any]]
    """The class of `context`; see `shows`."""

    peer: Any
    """The `Peer` that the message came from."""
    inbound: WireMessage
    channels: Any = None
    """The `ChannelTable` of the session in which the message came. None for lifecycle handlers, which no message
    calls."""
    message: Message | None = None
    """The message as `message` handlers see it, if there is one that observes."""
    cancel_reason: Any = None
    anonymous: Any = None
    """The `ChannelCore` of the channel that the handler has made, or that answers its request."""
    user_channel: Any = None
    """The `AnonymousChannel` for that channel that the handler holds, once it has asked for it."""
    upload: Upload | None = None
    """Reads the items that the caller sends, if the handler has a parameter for them."""
    shown: ref[Any] | None = None
    call: Any = None
    """The `Call` of a coroutine function that was started without one, and has waited since then."""

    @classmethod
    def shows(cls, context_class: type[C]) -> type[C]:
        """Class decorator: `context` is an object of the class."""
        cls.context_class = context_class
        return context_class

    @property
    def context(self) -> Any:
        """The `Context` that the user's code gets; the same one for as long as anybody holds it.

        A context holds its invocation. The other direction is weak, or each call would be a reference cycle.
        """
        shown = None if self.shown is None else self.shown()
        if shown is None:
            shown = self.context_class(self)
            self.shown = ref(shown)
        return shown

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
    def label(self) -> str:
        """The event in the words of a log line: ``chat:say #7``."""
        if self.inbound.c == RAW:
            return "a raw message"
        scope = self.inbound.c if self.inbound.h is None else self.inbound.h
        where = "" if scope is None else f"{scope}:"
        which = "" if self.id is None else f" #{self.id}"
        return repr(f"{where}{self.event}{which}")[1:-1]

    def answer_channel(self) -> Any:
        """Return the `ChannelCore` of the channel that may answer the request; it counts as open from now on."""
        if self.anonymous is None:
            if self.id is None or self.channels is None:
                text = f"{self.event!r} opens a channel, so it has to be requested, and came as an event"
                raise made_here(BadArguments(text))
            self.anonymous = self.channels.make(self.id, self.event)
        return self.anonymous

    def without_surplus(self, a: list[Any], most: int) -> list[Any]:
        """Cut ``a`` of an event to ``most`` values. That of a request is returned unchanged, to be rejected.

        JavaScript ignores arguments that a function has no parameter for. Nobody would tell the sender of an event that
        it was dropped, and an event that a new version sends with one more argument should still reach old handlers.
        """
        if self.inbound.i is not UNSET:
            return a
        if self.channels is not None:
            text = (
                f"event '{self.label}' came with {len(a) - 1} arguments and its handler takes {most - 1}, so it runs "
                "without the others"
            )
            self.channels.listener.count("surplus arguments", text)
        return a[:most]

    def read_items(self, convert: Callable[[Any], Any], parameter: str) -> Stream[Any]:
        """Return the stream of items that the caller sends with ``send=``, for the parameter of that name."""
        channel = self.answer_channel()
        self.upload = channel.upload()

        def misfit(exc: msgspec.ValidationError) -> BadResult:
            # With the channel, so that the caller gets the error if the handler lets it through.
            return bad_item(f"{self.event}(): an item of {parameter!r}: {exc}", channel)

        return Stream(self.event, convert, reading=self.upload, misfit=misfit)


CURRENT: ContextVar[Invocation] = ContextVar("wsrpc_current")
