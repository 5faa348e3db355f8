"""wsrpc: bidirectional RPC over WebSocket, in the ws-wrapper protocol.

A `Server` accepts, a `Client` dials, and then either side calls the other, with typed Python handlers.
"""

import sys

if sys.argv[:1] == ["-m"] and sys.orig_argv[-len(sys.argv)] in ("wsrpc", "-mwsrpc"):  # it is being run, not imported
    from wsrpc_command import end_on_interrupt

    end_on_interrupt()

from ._api.anonymous import AnonymousChannel
from ._api.channel import Channel
from ._api.context import CallNext, Context, HandlerContext, Middleware, current_context, current_peer
from ._api.peer import Peer
from ._api.proxy import with_options
from ._api.registration import Router, RouterChannel
from ._base.closing import CloseCode, CloseInfo
from ._base.names import RESERVED_EVENTS, Redact
from ._base.state import Key, PeerState
from ._client.backoff import Reconnect, is_transient
from ._client.client import Client, ReconnectInfo
from ._client.states import ClientState
from ._cluster.calls import ClusterPeer, ClusterPeerChannel
from ._cluster.cluster import Cluster, ClusterClient, ClusterRoom, ClusterRoomChannel
from ._conversion.convert import DecHook, EncHook
from ._entrance.origins import ANY_ORIGIN
from ._handlers.method import method
from ._handlers.observation import Message
from ._protocol.codecs import Codec, JsonCodec, MsgpackCodec
from ._protocol.messages import WireMessage as Inbound
from ._raw.connection import RawConnection
from ._sending.retry import Retry
from ._sending.slow_readers import KeepLatest
from ._server.broadcast import EmitReport
from ._server.listening import Listening
from ._server.rooms import Members, Room, RoomChannel
from ._server.server import Server, ServerChannel, Service
from ._streams.stream import Stream
from ._transports.dial import Dial, dial
from ._transports.websocket import WebSocketTransport
from .errors import (
    BadArguments,
    BadResult,
    ChannelClosed,
    ChannelNotReady,
    ConnectFailed,
    ConnectionLost,
    Draining,
    EngineLost,
    HandlerFailed,
    HandlerTimeout,
    HandshakeRejected,
    MessageTooBig,
    Outcome,
    Overloaded,
    PeerError,
    PeerNotFound,
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
from .stats import ClusterStats, PeerStats, ServerStats
from .transport import ConnectionInfo, Receiver, Traffic, Transport

__version__ = "0.2.0"

__all__ = [
    "ANY_ORIGIN",
    "RESERVED_EVENTS",
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
    "Cluster",
    "ClusterClient",
    "ClusterPeer",
    "ClusterPeerChannel",
    "ClusterRoom",
    "ClusterRoomChannel",
    "ClusterStats",
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
    "EngineLost",
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
    "Members",
    "Message",
    "MessageTooBig",
    "Middleware",
    "MsgpackCodec",
    "Outcome",
    "Overloaded",
    "Peer",
    "PeerError",
    "PeerNotFound",
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
    "with_options",
]
