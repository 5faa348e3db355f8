"""The types of objects that wsrpc passes to your functions or returns, for annotations."""

from ._base.names import RESERVED_EVENTS, Redact
from ._base.rooms import Joined, Present, RoomState
from ._base.state import PeerState
from ._client.client_room import ClientRoom
from ._client.client_states import ClientState
from ._core.api.context import Middleware
from ._core.api.following import Following
from ._core.api.registration import RouterChannel
from ._core.handlers.invocation import Earlier, InboxMessage
from ._core.handlers.observation import Message
from ._keyed.adopter import EndedRun
from ._net.dialing.dial import Dial
from ._net.websocket import WebSocketTransport
from ._raw.raw_connection import RawConnection
from ._server.broadcast import EmitReport
from ._server.ports import Listening
from ._server.rooms.room import Members, RoomChannel
from ._server.rooms.room_events import RoomEvent, RoomEvents
from ._server.server import ServerChannel

__all__ = [
    "RESERVED_EVENTS",
    "ClientRoom",
    "ClientState",
    "Dial",
    "Earlier",
    "EmitReport",
    "EndedRun",
    "Following",
    "InboxMessage",
    "Joined",
    "Listening",
    "Members",
    "Message",
    "Middleware",
    "PeerState",
    "Present",
    "RawConnection",
    "Redact",
    "RoomChannel",
    "RoomEvent",
    "RoomEvents",
    "RoomState",
    "RouterChannel",
    "ServerChannel",
    "WebSocketTransport",
]
