"""`RemoteRooms`: the rooms at other nodes."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from .._base.logs import logger
from .._base.scheduler import Tasks
from .._core.api.peer import Peer, current_of
from .._core.handlers.registry import Registry
from .._server.joined_cluster import RoomMessage
from .._server.rooms.room_requests import Asking, RoomAnswer
from .._server.rooms.rooms import Rooms
from ..errors import ConnectionLost, QueueFull, UnknownEvent, WsrpcError
from ._nodes.links import NodeLinks
from ._nodes.node import BEAT, Node

ROOM, MEMBERS = "room", "members"
"""Messages between nodes about rooms: an event, and a request for members."""
ASK = "ask"
"""Request for a stream of the answers of a room's members. A node without a server rejects it."""

SendResult = asyncio.Future[Exception | None]
"""Done when an event was sent, or with the reason why not. Its caller cancels it."""
Line = deque[tuple[RoomMessage, SendResult]]


class RemoteRooms:
    """The rooms at other nodes: sends events to them, and asks for their members. It implements `RoomsElsewhere`.

    Args:
        rooms: the rooms of the server, which this object serves to other nodes. None for a program without a server.
    """

    def __init__(self, node: Node, links: NodeLinks, registry: Registry, rooms: Rooms | None) -> None:
        self._node = node
        self._links = links
        self._directory = directory = node.directory
        self.presence = directory.presence
        self.room_filled, self.room_emptied = directory.room_filled, directory.room_emptied
        self.asking: set[Asking] = set()
        self.outgoing: Sequence[Any] = registry.outgoing
        self.converter = registry.converter
        self._lines: dict[str, Line] = {}
        """The events that wait for a node which has not dialed yet, or for which too much is unsent."""
        self._tasks = Tasks()
        if rooms is not None:
            links.on(ROOM, rooms.deliver_from_node)
            links.on(MEMBERS, rooms.members_of)
            links.on(ASK, rooms.answers_for_node)

    async def send_to_room(self, message: RoomMessage) -> tuple[tuple[str, ...], tuple[str, ...]]:
        nodes, missed = self._directory.nodes_of(message.room), list[str]()
        full: list[Peer] = []
        late: dict[str, SendResult] = {}
        for node in self._directory.nodes_of(message.room, keep=False) if message.stored else nodes:
            try:
                peer = self._send(node, message)
                if current_of(peer).outbox.callers_must_wait and self._node.connected:
                    full.append(peer)
            except WsrpcError as exc:
                if self._node.connected and isinstance(exc, (ConnectionLost, QueueFull)):
                    late[node] = self._send_later(node, message)
                else:
                    self._missed(message, node, missed, exc)
        if full or late:
            try:
                for node, sent in late.items():
                    if isinstance(error := await sent, WsrpcError):
                        self._missed(message, node, missed, error)
                    elif error is not None:
                        raise error
                for peer in full:
                    await current_of(peer).writer.wait_room()
            finally:
                for sent in late.values():
                    sent.cancel()
        return tuple(node for node in nodes if node not in missed), tuple(missed)

    def send_to_room_nowait(self, message: RoomMessage) -> tuple[tuple[str, ...], tuple[str, ...]]:
        nodes, missed = self._directory.nodes_of(message.room), list[str]()
        for node in nodes:  # a room with ``keep=`` has no `emit_nowait`
            try:
                self._send(node, message)
            except WsrpcError as exc:
                self._missed(message, node, missed, exc)
        return tuple(node for node in nodes if node not in missed), tuple(missed)

    def _send(self, node: str, message: RoomMessage) -> Peer:
        """Send to a node in this turn of the event loop, so that no later event overtakes. Return its peer.

        Raises:
            ConnectionLost: there is no session with the node.
            QueueFull: too much is unsent, or earlier events wait for the node.
        """
        if node in self._lines:
            raise QueueFull("earlier events still wait for the node")
        peer = self._links.at_once(node)
        peer.emit_nowait(ROOM, message)
        return peer

    def _send_later(self, node: str, message: RoomMessage) -> SendResult:
        """Send when the node has dialed, and there is room, after the events that wait already."""
        sent: SendResult = asyncio.get_running_loop().create_future()
        line = self._lines.get(node)
        if line is None:
            line = self._lines[node] = deque()
            self._tasks.spawn(self._send_line(node, line))
        line.append((message, sent))
        return sent

    async def _send_line(self, node: str, line: Line) -> None:
        """Send the events that wait for a node, in their order, until none waits."""
        try:
            peer = await self._links.reach(node)
            while line:
                message, sent = line.popleft()
                if not sent.done():
                    error: Exception | None = None
                    try:
                        await peer.emit(ROOM, message)
                    except Exception as exc:
                        error = exc
                    if not sent.done():
                        sent.set_result(error)
        except ConnectionLost as exc:  # the node has not dialed
            for _, sent in line:
                if not sent.done():
                    sent.set_result(exc)
        finally:
            del self._lines[node]

    def _missed(self, message: RoomMessage, node: str, missed: list[str], why: WsrpcError) -> None:
        missed.append(node)
        logger.warning("an event for room %r was not sent to node %s: %s", message.room, node, why)
        if isinstance(why, (ConnectionLost, QueueFull)):
            self._links.missed(node)

    async def members(self, room: str) -> tuple[list[str], int, tuple[str, ...]]:
        nodes = self._directory.nodes_of(room)
        answers: list[tuple[list[str], int] | None] = [None] * len(nodes)
        if self._node.connected:
            answers = await self._links.ask_all(nodes, MEMBERS, room, tuple[list[str], int])
        found = [answer for answer in answers if answer is not None]
        addresses = [address for here, _ in found for address in here]
        missing = tuple(node for node, answer in zip(nodes, answers, strict=True) if answer is None)
        return addresses, sum(others for _, others in found), missing

    def ask(self, asking: Asking, /) -> None:
        """Ask the other nodes; see `Asked`."""
        for node in self._directory.nodes[1:]:
            asking.ask(node, self._ask, node, asking)

    def node_joined(self, node: str) -> None:
        """Ask a new node what the others are asked."""
        for asking in self.asking:
            asking.ask(node, self._ask, node, asking)

    async def _ask(self, node: str, asking: Asking) -> None:
        """Pass on the answers of the members at another node. If the session with it breaks, ask again."""
        with suppress(UnknownEvent):
            while node in self._directory.nodes:
                with suppress(ConnectionLost):
                    peer = await self._links.reach(node)
                    async with peer.stream(ASK, asking.request, asking.remaining, returns=RoomAnswer) as answers:
                        async for answer in answers:
                            asking.answers.put_nowait(answer.read())
                await asyncio.sleep(BEAT)
