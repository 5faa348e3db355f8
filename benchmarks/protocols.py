"""How the load generator in C says a call in the words of each system: one class for each protocol.

A new system that speaks over WebSocket needs one more class here, with the bytes of a request and of its answer.
"""

from __future__ import annotations

import json
from base64 import b64encode
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import msgspec

from .servers.handlers import TICK

ID = "100000"
"""The id of a request. The generator writes another one over it each time, of the same length."""


@dataclass(frozen=True)
class Call:
    """What is asked of a server. ``argument`` is what it is called with and, but for ``add``, what it answers."""

    name: str
    argument: Any = None

    @property
    def arguments(self) -> list[Any]:
        return [1, 2] if self.name.startswith("add") else [] if self.argument is None else [self.argument]

    @property
    def result(self) -> Any:
        return 3 if self.name.startswith("add") else 1 if self.argument is None else self.argument


ADD = Call("add")
ADD_ASYNC = Call("add_async")
BROADCAST = Call("broadcast")


def echo(size: int) -> Call:
    return Call("echo", "x" * size)


def echo_bytes(size: int) -> Call:
    return Call("echo_bytes", b"x" * size)


@dataclass(frozen=True)
class Texts:
    """What the generator is given on its stdin, and the options that belong to it."""

    request: bytes
    id_offset: int
    mark: bytes
    """What stands before the id in an answer."""
    result: bytes
    """What must stand in each answer, or is delivered by a broadcast."""
    opening: bytes = b""
    path: str = "/"
    options: tuple[str, ...] = ()


class Speaks(Protocol):
    """A protocol: the texts for a call, or None for what it cannot say."""

    def texts(self, call: Call) -> Texts | None: ...


class WsWrapper:
    """ws-wrapper's JSON. Bytes are MessagePack towards a wsrpc server, after the hello of wsrpc clients."""

    hello = json.dumps(
        {
            "ws-wrapper": False,
            "wsrpc": {"t": "hello", "v": 1, "features": ["credit", "drain", "msgpack"], "limits": {"message": 2**22}},
        }
    ).encode()

    def __init__(self, *, extensions: bool = False, only: tuple[str, ...] = ()) -> None:
        self._extensions = extensions
        self._only = only

    def texts(self, call: Call) -> Texts | None:
        if self._only and call.name not in self._only:
            return None
        if isinstance(call.argument, bytes):
            return self._packed(call) if self._extensions else None
        request = wrapper_request(call)
        result = f'"tick","{TICK}"' if call == BROADCAST else f'"d":{_json(call.result)}'
        return Texts(request, len('{"i":'), b'"i":', result.encode())

    def _packed(self, call: Call) -> Texts:
        request = msgspec.msgpack.encode({"i": 100000, "a": [call.name, *call.arguments]})
        mark = msgspec.msgpack.encode({"i": 100000})[1:4]
        result = msgspec.msgpack.encode("d") + msgspec.msgpack.encode(call.result)
        options = ("binary=1", "msgpack_id=1")
        return Texts(request, request.index(mark) + len(mark), mark, result, opening=self.hello, options=options)


class Echo:
    """A bare echo gets the same messages as ws-wrapper and sends them back; or, for a broadcast, to everybody."""

    def __init__(self, *, broadcasts: bool = False) -> None:
        self._broadcasts = broadcasts

    def texts(self, call: Call) -> Texts | None:
        if call == BROADCAST and not self._broadcasts:
            return None
        if call == BROADCAST:
            tick = _json({"a": ["tick", TICK]}).encode()
            return Texts(tick, 0, b"", f'"tick","{TICK}"'.encode(), path="/broadcast")
        if isinstance(call.argument, bytes):
            texts = WsWrapper(extensions=True)._packed(call)
            result = msgspec.msgpack.encode([call.name, *call.arguments])
            return Texts(texts.request, texts.id_offset, texts.mark, result, options=texts.options)
        request = wrapper_request(call)
        return Texts(request, len('{"i":'), b'"i":', request[request.index(b'"a":') : -1])


class SocketIO:
    """Socket.IO 5 on Engine.IO 4: an event that asks for an acknowledgement."""

    def texts(self, call: Call) -> Texts | None:
        if isinstance(call.argument, bytes):
            return None
        # Between the id and the list, as it has no field for it.
        request = f"42{ID}{_json([call.name, *call.arguments])}".encode()
        result = f'"tick","{TICK}"' if call == BROADCAST else _json([call.result])
        path = "/socket.io/?EIO=4&transport=websocket"
        return Texts(request, 2, b"43", result.encode(), opening=b"40", path=path, options=("socketio=1",))


class Centrifuge:
    """Centrifugo's JSON: a call of a method, with the arguments as its data."""

    def texts(self, call: Call) -> Texts | None:
        if isinstance(call.argument, bytes):
            return None
        method = call.name.removesuffix("_async")  # it has no other functions than those of goroutines
        request = f'{{"id":{ID},"rpc":{{"method":"{method}","data":{_json(call.arguments)}}}}}'.encode()
        result = f'"tick","{TICK}"' if call == BROADCAST else f'"data":{_json(call.result)}'
        opening = b'{"id":1,"connect":{}}'
        return Texts(request, len('{"id":'), b'"id":', result.encode(), opening=opening, options=("greets=1",))


class FastapiRpc:
    """fastapi-websocket-rpc's JSON: arguments by name, and ids that are text. It has no broadcasts."""

    names: ClassVar = {"add": ("a", "b"), "echo": ("text",)}

    def texts(self, call: Call) -> Texts | None:
        if isinstance(call.argument, bytes) or call == BROADCAST:
            return None
        method = call.name.removesuffix("_async")  # it has no other functions than async ones
        arguments = dict(zip(self.names[method], call.arguments, strict=True))
        message = {"request": {"call_id": ID, "method": method, "arguments": arguments}}
        mark = b'"call_id":"'
        request = _json(message).encode()
        return Texts(request, request.index(mark) + len(mark), mark, f'"result":{_json(call.result)}'.encode())


class Grpc:
    """HTTP/2, which the generator in C does not speak: the one in Go does; see `benchmarks.go`."""

    methods: ClassVar = {"add": "Add", "add_async": "Add", "echo": "Echo", "echo_bytes": "EchoBytes"}

    def texts(self, call: Call) -> Texts | None:
        return None


def wrapper_request(call: Call) -> bytes:
    argument = call.argument
    arguments = [b64encode(argument).decode()] if isinstance(argument, bytes) else call.arguments
    return f'{{"i":{ID},"a":{_json([call.name, *arguments])}}}'.encode()


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))
