"""Requests to a room: each member is asked, and the first answer wins."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, Self, Unpack, cast

from msgspec import UNSET, Struct

from ..._base.misuse import check_number, shown_as
from ..._base.names import UNTYPED, ChannelRef, OnChannel
from ..._core.api import calls
from ..._core.api.options import ChannelEventOptions, changed
from ..._core.peer.requester import convert_answer
from ..._core.sending.checks import check_sending
from ..._core.sending.sender import Sender
from ..._core.wire.call_context import MAX_REMAINING, CallContext
from ..._core.wire.messages import RequestOptions
from ..._core.wire.nodes import as_raised, error_to_node
from ..._core.wire.rejections import error_from_wire, error_to_wire, reason_of
from ...errors import ConnectionLost, RequestTimeout, WsrpcError

if TYPE_CHECKING:
    from typing_extensions import TypeForm, TypeVar

    T = TypeVar("T", default=Any)

ANSWERED = "another member has answered"
LEFT = "it has left the room"


class RoomRequest(Struct, array_like=True):
    """A request to the members of a room."""

    room: str
    channel: str | None
    event: str
    args: list[Any]
    context: CallContext | None = None


class RoomAnswer(Struct):
    """The answer of a member, on its way from one node to another: a result or an error; see `Rejection`."""

    d: Any = None
    e: Any = UNSET
    flag: Any = UNSET

    @classmethod
    def of(cls, answer: Any) -> RoomAnswer:
        """Return the form in which an answer is sent."""
        return cls(None, *error_to_wire(error_to_node(answer))) if isinstance(answer, Exception) else cls(answer)

    def read(self) -> Any:
        """Return the result, or the exception."""
        return self.d if self.e is UNSET else as_raised(error_from_wire(self.e, self.flag))


class Asked(Protocol):
    """Who is asked by the requests to a room: its members at this server, or the other nodes of a cluster."""

    asking: set[Asking]
    """The requests that wait for an answer. They also ask members that join later."""
    outgoing: Sequence[Any]
    """The functions of `use_outgoing`."""

    def converter(self, returns: Any, /) -> Callable[[Any], Any]:
        """Return the function that converts results to a type."""
        ...

    def ask(self, asking: Asking, /) -> None:
        """Ask those who are there now."""


class Asking:
    """One request to the members of a room, in an ``async with`` block, whose end cancels what has no answer.

    Args:
        within: seconds after which the handlers have no more time.
        asked: who is asked.
    """

    def __init__(self, request: RoomRequest, within: float, asked: Sequence[Asked]) -> None:
        self.request = request
        self.answers: asyncio.Queue[Any] = asyncio.Queue()
        """Results, and the exceptions of those who failed."""
        self._asked = asked
        self._deadline = asyncio.get_running_loop().time() + within
        self._tasks: dict[object, asyncio.Task[None]] = {}
        """A task for each member and each node that is asked, also after it has answered."""

    async def __aenter__(self) -> Self:
        for each in self._asked:
            each.ask(self)
            each.asking.add(self)
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        for each in self._asked:
            each.asking.discard(self)
        for task in self._tasks.values():
            task.cancel(ANSWERED if error is None else reason_of(error))
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    @property
    def remaining(self) -> float:
        """Seconds that are left."""
        return max(0.0, self._deadline - asyncio.get_running_loop().time())

    def ask(self, whom: object, function: Callable[..., Awaitable[object]], *args: object) -> None:
        """Run a function that asks a member or a node, and adds to `answers`."""
        self.stop_asking(whom)
        self._tasks[whom] = asyncio.create_task(self._run(function, *args))

    def stop_asking(self, whom: object) -> None:
        """Cancel the request to one member or node."""
        if (task := self._tasks.pop(whom, None)) is not None:
            task.cancel(LEFT)

    async def _run(self, function: Callable[..., Awaitable[object]], *args: object) -> None:
        try:
            await function(*args)
        except (ConnectionLost, RequestTimeout):
            pass  # it has not answered
        except Exception as exc:
            self.answers.put_nowait(exc)

    async def send(self, sender: Sender) -> None:
        """Send the request to a member, and add its answer."""
        request = self.request
        options = RequestOptions(timeout=self.remaining, context=request.context, sends_timeout=True)
        answer = await sender.send_request(request.channel, request.event, tuple(request.args), options)
        self.answers.put_nowait(answer)


class RoomSender:
    """Sends requests to a room. It has what `calls.request` needs of a `Sender`."""

    request_timeout = None

    def __init__(self, room: str, *asked: Asked) -> None:
        self.outgoing = asked[0].outgoing
        self._room = room
        self._asked = asked

    def target(self) -> tuple[None, None]:
        return None, None

    @shown_as("request")
    async def send_request(
        self, channel: ChannelRef, event: str, args: tuple[Any, ...], options: RequestOptions, /
    ) -> Any:
        """Ask the members, and return the first answer that fits; see `RequestMethods.request`."""
        assert isinstance(options.timeout, (int, float)) and not isinstance(channel, int)
        check_sending(channel, event, None)
        convert = None if options.returns is UNSET else self._asked[0].converter(options.returns)
        request = RoomRequest(self._room, channel, event, [*args], options.context)
        asking, answer, error = Asking(request, options.timeout, self._asked), None, None
        try:
            async with asking, asyncio.timeout(options.timeout):
                while True:
                    answer = await asking.answers.get()
                    try:
                        if isinstance(answer, Exception):
                            raise answer
                        return answer if convert is None else convert_answer(convert, answer, event, None)
                    except WsrpcError as exc:  # another member may give a better answer
                        error = exc
        except TimeoutError:
            raise error or RequestTimeout(event, options.timeout) from None
        finally:  # else the exception would refer to this frame, and the frame to the exception
            del answer, error


class RequestMethods(OnChannel):
    """`request`, for rooms and their channels."""

    __slots__ = ()

    _sender: Callable[[], RoomSender]

    async def request(
        self,
        event: str,
        /,
        *args: Any,
        within: float = 60.0,
        returns: TypeForm[T] = UNTYPED,
        **options: Unpack[ChannelEventOptions],
    ) -> T:
        """Send a request to every member of the room, and return the first response.

        Peers that join meanwhile are asked, too. When one member has responded, the requests to the others are
        cancelled, and so are their handlers: a dialog closes in the user's other tabs. The request to a member that
        leaves the room is cancelled as well, and one to a detached member waits for its connection. Raw connections are
        not asked.

        A member that fails has not responded, and the others are still asked. The same holds for a response that does
        not fit ``returns``. In a cluster, the members in all processes are asked. Cancelling is safe, and also cancels
        the handlers.

        Args:
            within: the maximum time until the first response, in seconds. The handlers are told the time that is left
                to them, as `Context.remaining`. A handler that makes this call limits it to its own remaining time.
            returns: the type that the response is checked against and converted to.
            metadata: as for `Peer.emit`.

        Raises:
            RemoteError: no member has responded in time, and at least one has rejected the request. This is the error
                that came last.
            BadResult: the same, if the last one has sent a response that does not fit ``returns``. Other errors of a
                single member, such as `MessageTooBig`, are raised in the same way.
            RequestTimeout: no member has responded or failed in time. Perhaps there was no member.
            EngineLost: a `ClusterClient` cannot reach the engine. Nothing was sent.
            ReservedEvent, TypeError, ValueError: the request cannot be sent.
            RuntimeError: called in a thread other than that of the server's event loop.
        """
        check_number("within= is a number of seconds, more than 0", within, 0.001)
        self._check_open()
        own = RequestOptions(returns, timeout=min(within, MAX_REMAINING), sends_timeout=True)
        chosen = changed(own, options, ChannelEventOptions, self.request, event)
        sender = cast(Sender, self._sender())
        return cast("T", await calls.request(sender, (self._channel_name, event, args), chosen))
