"""wsrpc: bidirectional RPC over WebSocket, in the ws-wrapper protocol.

A `Server` accepts, a `Client` dials, and then either side calls the other, with typed Python handlers.
"""

import importlib
import os
import typing

if typing.TYPE_CHECKING:
    from ._base.closing import CloseCode, CloseInfo
    from ._base.retry import Retry
    from ._base.state import Key
    from ._client.client import Client
    from ._client.reconnect_hooks import ReconnectInfo
    from ._client.reconnect_policy import Reconnect, is_transient
    from ._core.api.caller import AnonymousChannel
    from ._core.api.channel import Channel
    from ._core.api.context import CallNext, Context, current_context, current_peer
    from ._core.api.outgoing import OutgoingCall
    from ._core.api.peer import Peer
    from ._core.api.proxy import with_options
    from ._core.api.registration import Router
    from ._core.api.stream import Stream
    from ._core.handlers.contract import Conversation
    from ._core.handlers.method import Keep, method
    from ._core.sending.slow_readers import KeepLatest
    from ._local import local_client
    from ._net.dialing.dial import dial
    from ._net.serving.origins import ANY_ORIGIN
    from ._server.rooms.room import Room
    from ._server.server import Server
    from ._server.service import Service
    from ._values.older_names import older_names
    from .errors import (
        BadArguments,
        BadResult,
        ChannelClosed,
        ConnectFailed,
        ConnectionLost,
        HandlerFailed,
        HandlerTimeout,
        HandshakeRejected,
        ItemsGone,
        KeyReused,
        MessageTooBig,
        NotRead,
        Overloaded,
        QueueFull,
        RemoteError,
        RequestTimeout,
        RpcError,
        RunLost,
        SessionLost,
        StreamOverflow,
        TooManyRequests,
        UnknownEvent,
        WsrpcError,
    )
    from .handshake import Handshake
    from .limits import Limits, Rate
    from .quotas import Quotas

__version__ = "0.2.0"

__all__ = [
    "ANY_ORIGIN",
    "AnonymousChannel",
    "BadArguments",
    "BadResult",
    "CallNext",
    "Channel",
    "ChannelClosed",
    "Client",
    "CloseCode",
    "CloseInfo",
    "ConnectFailed",
    "ConnectionLost",
    "Context",
    "Conversation",
    "HandlerFailed",
    "HandlerTimeout",
    "Handshake",
    "HandshakeRejected",
    "ItemsGone",
    "Keep",
    "KeepLatest",
    "Key",
    "KeyReused",
    "Limits",
    "MessageTooBig",
    "NotRead",
    "OutgoingCall",
    "Overloaded",
    "Peer",
    "QueueFull",
    "Quotas",
    "Rate",
    "Reconnect",
    "ReconnectInfo",
    "RemoteError",
    "RequestTimeout",
    "Retry",
    "Room",
    "Router",
    "RpcError",
    "RunLost",
    "Server",
    "Service",
    "SessionLost",
    "Stream",
    "StreamOverflow",
    "TooManyRequests",
    "UnknownEvent",
    "WsrpcError",
    "current_context",
    "current_peer",
    "dial",
    "is_transient",
    "local_client",
    "method",
    "older_names",
    "with_options",
]

if not typing.TYPE_CHECKING:
    # Two other distributions also install a package `wsrpc`. pip puts both into one folder without a warning, and later
    # removes `__init__.py` with the other one. A file that only that one has is found in 2 µs; importlib.metadata takes
    # 25 ms.
    for _other, _file in (("wsrpc-tornado", "websocket/__init__.py"), ("wsrpc", "wrapper.py")):
        if os.path.exists(os.path.join(__path__[0], _file)):
            raise ImportError(
                f"{_other}, which is another project, is installed in the folder of python-wsrpc, {__path__[0]}: "
                f"pip uninstall -y {_other}, then pip install --force-reinstall --no-deps python-wsrpc"
            )

    # The first use of a name imports its module. So a client does not load the server, and `python -m wsrpc` starts
    # without loading the library, which takes 0.1 s.

    # The modules of all names that are not in `errors`.
    _HOMES = {
        "ANY_ORIGIN": "._net.serving.origins",
        "AnonymousChannel": "._core.api.caller",
        "CallNext": "._core.api.context",
        "Channel": "._core.api.channel",
        "Client": "._client.client",
        "CloseCode": "._base.closing",
        "CloseInfo": "._base.closing",
        "Context": "._core.api.context",
        "Conversation": "._core.handlers.contract",
        "Handshake": ".handshake",
        "Keep": "._core.handlers.method",
        "KeepLatest": "._core.sending.slow_readers",
        "Key": "._base.state",
        "Limits": ".limits",
        "OutgoingCall": "._core.api.outgoing",
        "Peer": "._core.api.peer",
        "Quotas": ".quotas",
        "Rate": ".limits",
        "Reconnect": "._client.reconnect_policy",
        "ReconnectInfo": "._client.reconnect_hooks",
        "Retry": "._base.retry",
        "Room": "._server.rooms.room",
        "Router": "._core.api.registration",
        "Server": "._server.server",
        "Service": "._server.service",
        "Stream": "._core.api.stream",
        "current_context": "._core.api.context",
        "current_peer": "._core.api.context",
        "dial": "._net.dialing.dial",
        "is_transient": "._client.reconnect_policy",
        "local_client": "._local",
        "method": "._core.handlers.method",
        "older_names": "._values.older_names",
        "with_options": "._core.api.proxy",
    }

    _MODULES = ("errors", "handshake", "limits")  # checkers know these as attributes, because of the imports above

    def __getattr__(name):
        if name in _MODULES:
            return importlib.import_module(f".{name}", __name__)
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        home = importlib.import_module(_HOMES.get(name, ".errors"), __name__)
        value = globals()[name] = getattr(home, name)
        return value

    def __dir__():
        return sorted({*globals(), *__all__})
