"""`ClientRoom`: a room that a client has joined. `ClientRooms`: all rooms of a client, which joins them again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import msgspec

from .._base.names import F, check_name
from .._base.retry import NEVER_RAN, Retry, worth_asking
from .._base.rooms import CHANNEL, Joined, Present
from .._core.handlers.lifecycle import ends_the_task
from .._core.handlers.registry import Registry
from .._core.peer.peer_core import PeerCore
from ..errors import ConnectionLost, WsrpcError

MOST_PRESENT = 8 * 1024 * 1024
"""Maximum bytes of the users in a room, as MessagePack. A server could send ever more of them."""

JOIN_TIMEOUT = 9.0
"""Seconds after which `join` does not ask again. A server waits 10 seconds for its store."""

_encode = msgspec.msgpack.Encoder().encode


class ClientRoom:
    """Room of a server, as a client sees it. `Client.room` returns the same object for each call with the same name.

    After `join`, the client joins again in each new session, until you call `leave`. If the room has a log, the client
    then gets the events that it has missed, and none twice. The events are for the client's handlers, in which
    `Context.room` is the name of the room.

    Attributes:
        name: the name of the room.
        joined: whether the client has joined. Becomes false if the server does not let the client join again.
        complete: whether the client has missed no event since the last call of `join`.
        position: the position of the last event of the room that has arrived. None if the room has no log. Pass it as
            ``after`` to `join`, also in another process, to get the events after it.
        present: the users in the room, by `Present.user`. Do not change it. Empty if the server does not use
            ``presence=`` for the room. If the users take more than 8 MiB as MessagePack, further ones are missing.
    """

    def __init__(self, name: str, rooms: ClientRooms) -> None:
        self.name = name
        self.joined = False
        self.complete = True
        self.position: str | None = None
        self.present: dict[str | int, Present] = {}
        self._rooms = rooms

    async def join(self, *, last: int = 0, about: Any = None, after: str | None = None) -> Joined:
        """Join the room. If the client is a member already, this only changes ``about``.

        The call returns after the events from the log have arrived. It has no timeout. If you cancel it, call `leave`,
        because the client may have become a member.

        Args:
            last: the number of events to get from the end of the room's log. Without effect if you pass ``after``.
            about: a description of this client, for `Present.about`: a value of at most 512 bytes when encoded.
            after: a position. The client gets all events after it.

        Raises:
            RemoteError: the server does not let the client join. For example, the room has no ``allow=``.
            ConnectionLost: there is no connection, and the client does not reconnect. If the connection is lost before
                the server has answered, the client asks again on the next one.
        """
        if not self.joined:
            self.position = after
        now = asyncio.get_running_loop().time
        latest = now() + JOIN_TIMEOUT
        retry = Retry(retry=lambda exc: worth_asking(exc) and now() < latest)
        while True:
            options = {"after": self.position or after, "last": last, "about": about}
            try:
                joined = await self._rooms.join(self, options, retry)
            except ConnectionLost as exc:
                if exc.outcome == "not_sent" or not self._rooms.will_reconnect:
                    raise
                continue  # to join again does no harm, and continues after the last event that has arrived
            self.complete = joined.complete
            return joined

    async def leave(self) -> None:
        """Leave the room, and do not join it again.

        If the room has a log, its events that arrive from now on are neither handled nor counted in `position`.

        Raises:
            RemoteError: the server itself has added the client to the room, and only the server can remove it.
            ConnectionLost: there is no connection, or it was lost before the server has answered.
        """
        await self._rooms.leave(self)

    def on_missed(self, function: F, /) -> F:
        """Register ``function(room)``, sync or async, for missed events. Works as a decorator.

        The function is called when `complete` becomes false, because events are not in the log any more, or the client
        has joined a room without a log again, or the server does not let it join again. It may also take no argument.
        Events that this client drops, because more wait than `Limits.waiting` allows, are only logged and counted.
        """
        return self._rooms.add_hook(self, "on_missed", function)

    def on_state(self, function: F, /) -> F:
        """Register ``function(room, state)``, sync or async, for the state of a room with ``state=``. A decorator.

        The function is called when the client has joined without a position, and again when it has missed events. A
        plain ``def`` has finished when the handlers of the events that follow are called; an ``async def`` runs beside
        them. Without a function, `on_missed` is called instead.
        """
        return self._rooms.add_hook(self, "on_state", function, ("room", "state"))

    def on_presence(self, function: F, /) -> F:
        """Register ``function(room)``, sync or async, for changes of `present`. Works as a decorator.

        The function may also take no argument.
        """
        return self._rooms.add_hook(self, "on_presence", function)

    def __repr__(self) -> str:
        return f"<ClientRoom {self.name!r} joined={self.joined} position={self.position!r}>"


class Membership:
    """What the client knows of its membership in a room."""

    __slots__ = ("joining", "leaving", "missed", "options", "present_bytes", "room", "session")

    def __init__(self, room: ClientRoom) -> None:
        self.room = room
        self.options: dict[str, Any] | None = None
        """The options of the last join. None if the client has left since."""
        self.session: object = None
        """The session in which the client has joined, or has begun to join again."""
        self.joining: asyncio.Task[None] | None = None
        """Joins the room again in the present session. It may be done."""
        self.missed = False
        """Whether there was an event `missed` since the client has begun to join again."""
        self.leaving = False
        """Whether the client has joined and wants to leave, and the server has not answered."""
        self.present_bytes = 0
        """The size of `ClientRoom.present`."""

    @property
    def wanted(self) -> bool:
        """Whether the user has not left the room since the last join."""
        return self.options is not None

    def stop_joining(self) -> None:
        """Do not join again: otherwise it could ask a busy server again, after the user has left."""
        if self.joining is not None:
            self.joining.cancel()
            self.joining = None


class ClientRooms:
    """All rooms of one client, from one session to the next."""

    def __init__(self, peer_core: PeerCore, registry: Registry) -> None:
        self._peer_core = peer_core
        self._registry = registry
        self._rooms: dict[str, Membership] = {}

    def get(self, name: str) -> ClientRoom:
        """Return the room with this name; see `Client.room`."""
        check_name("a room's name", name)
        if not self._rooms:
            if not self._peer_core.options.settings.extensions:
                raise ValueError("client.room() needs extensions: without them, events come without their positions")
            handlers: dict[str, Callable[..., Any]] = {
                "missed": self._missed,
                "presence": self._presence,
                "state": self._state,
            }
            self._registry.offer(CHANNEL, "client.room() gets its events", handlers, hidden=True)
            self._peer_core.admission.on_position = self._event_arrived
            self._peer_core.admission.update()
        return self._rooms.setdefault(name, Membership(ClientRoom(name, self))).room

    @property
    def will_reconnect(self) -> bool:
        """Whether another connection follows."""
        return self._peer_core.owner.will_reconnect()

    # ------------------------------------------------------------ what users call

    async def join(self, room: ClientRoom, options: dict[str, Any], retry: Retry) -> Joined:
        """Join a room."""
        # If another session begins before the answer is read, the client joins once more, which changes nothing.
        session, member = self._peer_core.current, self._rooms[room.name]
        member.options, member.leaving = options, False
        join = self._peer_core.peer.of(CHANNEL).request
        answer = await join("join", room.name, options, returns=Joined | None, retry=retry, timeout=None)
        joined: Joined = answer or Joined(None, complete=True)
        member.session = session
        room.joined = member.wanted  # the user may have called `leave` meanwhile
        if room.position is None:  # otherwise an event has arrived: its position is that of the answer, or a later one
            room.position = joined.position
        return joined

    async def leave(self, room: ClientRoom) -> None:
        """See `ClientRoom.leave`."""
        member = self._rooms[room.name]
        room.joined = False
        if member.wanted:  # else the server may have added the client, and keep it
            member.options, member.leaving = None, True
        member.stop_joining()
        try:
            await self._peer_core.peer.of(CHANNEL).request("leave", room.name)
        finally:
            member.leaving = False
        self._presence(room.name, [], first=True)

    def add_hook(self, room: ClientRoom, name: str, function: F, names: tuple[str, ...] = ("room",)) -> F:
        """Register a function of the user, which takes arguments with these names, or the first of them."""
        self._registry.add_hook(f"client.room({room.name!r}).{name}", names, function)
        return function

    def _call_hooks(self, room: ClientRoom, name: str, *args: Any) -> None:
        for hook in self._registry.hooks.get(f"client.room({room.name!r}).{name}", ()):
            self._peer_core.reporter.call(name, hook.function, *(room, *args)[: hook.accepted])

    # ------------------------------------------------------------ new sessions

    def join_all_again(self) -> None:
        """Join again the rooms that the client has joined in an earlier session."""
        current = self._peer_core.current
        for member in list(self._rooms.values()):  # a function of use_outgoing may ask for another room
            if member.session not in (None, current):
                member.session = current  # if it resumes, a request that waits goes on
                member.stop_joining()
                member.joining = self._peer_core.reporter.spawn(self._join_again(member))

    async def _join_again(self, member: Membership) -> None:
        room = member.room
        if not room.joined:
            return
        session, options = self._peer_core.current, {**(member.options or {}), "after": room.position}

        def is_busy(exc: BaseException) -> bool:
            return isinstance(exc, NEVER_RAN) and session is self._peer_core.current

        member.missed = False
        try:
            joined = await self.join(room, options, Retry(attempts=10**9, retry=is_busy))
        except NEVER_RAN:
            return  # the session has ended: the client joins in the next one
        except BaseException as exc:
            if ends_the_task(exc):
                raise
            mistake = None if isinstance(exc, WsrpcError) else exc  # of a function of use_outgoing
            self._peer_core.log(logging.WARNING, "no longer in room %r: %s", room.name, exc, exc_info=mistake)
            room.joined = False
            self._presence(room.name, [], first=True)
        else:
            if joined.position is not None and (joined.complete or member.missed):
                return
        self._missed(room.name)

    # ------------------------------------------------------------ what the server sends

    def _event_arrived(self, name: str, position: str) -> bool:
        if (member := self._rooms.get(name)) is None:
            return True
        if not member.leaving:
            member.room.position = position
        return not member.leaving

    def _missed(self, name: str, position: str = "") -> None:
        if (member := self._rooms.get(name)) is not None:
            member.room.complete, member.missed = False, True
            self._call_hooks(member.room, "on_missed")

    def _state(self, name: str, position: str, value: Any) -> None:
        if name not in self._rooms:
            return
        room = self._rooms[name].room
        room.position = position
        if room.joined and f"client.room({name!r}).on_state" not in self._registry.hooks:
            self._missed(name)  # nobody handles the state, which is sent instead
            return
        room.complete = True
        self._call_hooks(room, "on_state", value)

    def _presence(self, name: str, entries: list[Present], first: bool = False) -> None:
        if (member := self._rooms.get(name)) is None:
            return
        room = member.room
        if first:
            room.present.clear()
        size = member.present_bytes if room.present else 0
        for each in entries:
            before = room.present.get(each.user)
            size -= 0 if before is None else len(_encode(before))
            if each.state == "offline" or size > MOST_PRESENT:
                room.present.pop(each.user, None)
            else:
                room.present[each.user] = each
                size += len(_encode(each))
        member.present_bytes = size
        self._call_hooks(room, "on_presence")
