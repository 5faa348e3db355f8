"""The types of objects that wsrpc passes to your functions or returns, for annotations."""

from ._api.context import Middleware
from ._api.registration import RouterChannel
from ._base.names import RESERVED_EVENTS, Redact
from ._base.state import PeerState
from ._client.states import ClientState
from ._handlers.observation import Message
from ._raw.connection import RawConnection
from ._server.broadcast import EmitReport
from ._server.listening import Listening
from ._server.rooms import Members, RoomChannel
from ._server.server import ServerChannel
from ._transports.dial import Dial
from ._transports.websocket import WebSocketTransport

__all__ = [
    "RESERVED_EVENTS",
    "ClientState",
    "Dial",
    "EmitReport",
    "Listening",
    "Members",
    "Message",
    "Middleware",
    "PeerState",
    "RawConnection",
    "Redact",
    "RoomChannel",
    "RouterChannel",
    "ServerChannel",
    "WebSocketTransport",
]
