"""wsrpc: bidirectional RPC over WebSocket, in the ws-wrapper protocol.

A `Server` accepts, a `Client` dials, and then either side calls the other, with typed Python handlers.
"""

from ._backoff import Reconnect, is_transient
from ._behind import KeepLatest
from ._broadcast import EmitReport
from ._client_state import ClientState
from ._close import CloseCode, CloseInfo
from ._codec import Codec, JsonCodec, MsgpackCodec
from ._context import Context, Message, current_context
from ._convert import DecHook, EncHook
from ._dial import Dial, dial
from ._key import Key, PeerState
from ._listening import Listening
from ._messages import Inbound
from ._origins import ANY_ORIGIN
from ._registry import CallNext, HandlerContext, Middleware
from ._retry import Retry
from ._types import Redact
from .anonymous import AnonymousChannel
from .channel import Channel
from .client import Client, ReconnectInfo
from .errors import (
    BadArguments,
    BadResult,
    ChannelClosed,
    ChannelNotReady,
    ConnectFailed,
    ConnectionLost,
    Draining,
    HandlerFailed,
    HandlerTimeout,
    HandshakeRejected,
    MessageTooBig,
    Outcome,
    Overloaded,
    PeerError,
    ProtocolError,
    QueueFull,
    RemoteError,
    RequestTimeout,
    ReservedEvent,
    RpcError,
    SessionLost,
    StreamOverflow,
    TooManyRequests,
    UnexpectedChannel,
    UnknownEvent,
    WsrpcError,
)
from .handshake import Handshake
from .limits import Limits
from .peer import Peer, current_peer
from .raw import RawConnection
from .rooms import Room, RoomChannel
from .router import Router, RouterChannel
from .server import Server, ServerChannel
from .service import Service, method
from .stats import PeerStats, ServerStats
from .stream import Stream
from .transport import ConnectionInfo, Receiver, Traffic, Transport
from .websocket import WebSocketTransport

__version__ = "0.1.0"

__all__ = [
    "ANY_ORIGIN",
    "AnonymousChannel",
    "BadArguments",
    "BadResult",
    "CallNext",
    "Channel",
    "ChannelClosed",
    "ChannelNotReady",
    "Client",
    "ClientState",
    "CloseCode",
    "CloseInfo",
    "Codec",
    "ConnectFailed",
    "ConnectionInfo",
    "ConnectionLost",
    "Context",
    "DecHook",
    "Dial",
    "Draining",
    "EmitReport",
    "EncHook",
    "HandlerContext",
    "HandlerFailed",
    "HandlerTimeout",
    "Handshake",
    "HandshakeRejected",
    "Inbound",
    "JsonCodec",
    "KeepLatest",
    "Key",
    "Limits",
    "Listening",
    "Message",
    "MessageTooBig",
    "Middleware",
    "MsgpackCodec",
    "Outcome",
    "Overloaded",
    "Peer",
    "PeerError",
    "PeerState",
    "PeerStats",
    "ProtocolError",
    "QueueFull",
    "RawConnection",
    "Receiver",
    "Reconnect",
    "ReconnectInfo",
    "Redact",
    "RemoteError",
    "RequestTimeout",
    "ReservedEvent",
    "Retry",
    "Room",
    "RoomChannel",
    "Router",
    "RouterChannel",
    "RpcError",
    "Server",
    "ServerChannel",
    "ServerStats",
    "Service",
    "SessionLost",
    "Stream",
    "StreamOverflow",
    "TooManyRequests",
    "Traffic",
    "Transport",
    "UnexpectedChannel",
    "UnknownEvent",
    "WebSocketTransport",
    "WsrpcError",
    "current_context",
    "current_peer",
    "dial",
    "is_transient",
    "method",
]
