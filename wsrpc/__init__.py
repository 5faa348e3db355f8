"""wsrpc: bidirectional RPC over WebSocket, in the ws-wrapper protocol.

A `Server` accepts, a `Client` dials, and then either side calls the other, with typed Python handlers.
"""

from ._backoff import Reconnect
from ._close import CloseCode, CloseInfo
from ._codec import Codec, JsonCodec, MsgpackCodec
from ._context import Context, Message, current_context
from ._registry import CallNext, HandlerContext, Middleware
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
    HandshakeRejected,
    MessageTooBig,
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
from .limits import Limits
from .peer import Peer, current_peer
from .router import Router
from .server import EmitReport, Server, ServerChannel
from .transport import ConnectionInfo, Receiver, Transport
from .websocket import WebSocketTransport, dial

__version__ = "0.1.0"

__all__ = [
    "BadArguments",
    "BadResult",
    "CallNext",
    "Channel",
    "ChannelClosed",
    "ChannelNotReady",
    "Client",
    "CloseCode",
    "CloseInfo",
    "Codec",
    "ConnectFailed",
    "ConnectionInfo",
    "ConnectionLost",
    "Context",
    "Draining",
    "EmitReport",
    "HandlerContext",
    "HandlerFailed",
    "HandshakeRejected",
    "JsonCodec",
    "Limits",
    "Message",
    "MessageTooBig",
    "Middleware",
    "MsgpackCodec",
    "Overloaded",
    "Peer",
    "PeerError",
    "ProtocolError",
    "QueueFull",
    "Receiver",
    "Reconnect",
    "ReconnectInfo",
    "RemoteError",
    "RequestTimeout",
    "ReservedEvent",
    "Router",
    "RpcError",
    "Server",
    "ServerChannel",
    "SessionLost",
    "StreamOverflow",
    "TooManyRequests",
    "Transport",
    "UnexpectedChannel",
    "UnknownEvent",
    "WebSocketTransport",
    "WsrpcError",
    "current_context",
    "current_peer",
    "dial",
]
