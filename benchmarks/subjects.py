"""The systems that are compared: this list is the only place where they are named. To add one, add a line.

A subject says how its server is started (`Subject.command`), what the load generator speaks to it (`speaks`), which
Python client belongs to it, if any (`client`), and what must be installed (`needs`).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .processes import ROOT
from .programs import find_node
from .protocols import Centrifuge, Echo, FastapiRpc, Grpc, SocketIO, Speaks, WsWrapper

HERE = Path(__file__).parent

Command = list[str | Path]


def python_program(module: str, *, python: str | Path = sys.executable, source: Path | None = None) -> Command:
    """A module of the benchmarks, with the wsrpc of the working tree, or with that in the folder ``source``."""
    if source is None:
        return [python, "-m", module]
    # With -P the working directory, which has a wsrpc of its own, is not searched first.
    return ["env", f"PYTHONPATH={source}{os.pathsep}{ROOT}", python, "-P", "-m", module]


def python_server(
    kind: str, *, python: str | Path = sys.executable, source: Path | None = None
) -> Callable[[], Command]:
    """A server of the package `benchmarks.servers`."""
    return lambda: [*python_program("benchmarks.servers", python=python, source=source), kind]


def javascript_server() -> Command:
    return [find_node(), HERE / "js" / "server.mjs"]


def javascript_by_hand() -> Command:
    return [*javascript_server(), "--json"]


def go_server(kind: str) -> Callable[[], Command]:
    """A server of the program in ``go_servers``."""

    def command() -> Command:
        from .go import SERVERS, build

        return [build(SERVERS), kind]

    return command


def go_wrapper_server() -> Command:
    """The program of ``interop/go``, on the real ws-server-wrapper-go where WS_WRAPPER_GO says where that is."""
    from interop.golang import available_libraries, command

    library = "go-real-coder" if "go-real-coder" in available_libraries() else "go-coder"
    return [*command(library), "-serve"]


def ceiling_server() -> Command:
    from .generator import PROGRAM

    return [PROGRAM, "echo"]


@dataclass(frozen=True)
class Subject:
    """One system."""

    key: str
    title: str
    command: Callable[[], Command]
    speaks: Speaks | None = None
    """None: only its Python client speaks with it."""
    needs: tuple[str, ...] = ()
    """Python modules, "node", "go"."""
    client: str = ""
    """Its client in `benchmarks.clients`."""
    tls: bool = True
    """Whether its server takes ``--tls``."""
    opening: bool = True
    """Whether opening connections to it, and what they take, is measured: not where another has the same server."""
    source: Path | None = None
    """The folder with its wsrpc, if that is not the working tree's."""
    aside: bool = False
    """Whether it is measured only under workloads that name it (`Workload.only`)."""

    @property
    def is_wsrpc(self) -> bool:
        return self.key.startswith("wsrpc")

    @property
    def is_ceiling(self) -> bool:
        return self.key.startswith("ceiling")

    @property
    def is_bare(self) -> bool:
        """An echo, or a loop of send(): no requests, no answers, no names."""
        return isinstance(self.speaks, Echo)


WSRPC = WsWrapper(extensions=True)
BY_HAND = WsWrapper(only=("add", "echo", "broadcast"))

SUBJECTS = (
    Subject("websockets", "bare `websockets` echo", python_server("websockets"), Echo(broadcasts=True)),
    Subject(
        "by-hand",
        "JSON over `websockets`",
        python_server("by-hand"),
        WsWrapper(only=("add", "echo")),
        client="by-hand",
        opening=False,
    ),
    Subject("wsrpc", "wsrpc", python_server("wsrpc"), WSRPC, client="wsrpc"),
    Subject(
        "wsrpc-off",
        "wsrpc with `Limits(replay_bytes=0)`",
        python_server("wsrpc-off"),
        WSRPC,
        client="wsrpc-off",
        aside=True,
    ),
    Subject("aiohttp", "bare `aiohttp` echo", python_server("aiohttp"), Echo(), ("aiohttp",)),
    Subject("wsrpc-aiohttp", "wsrpc on aiohttp", python_server("wsrpc-aiohttp"), WSRPC, ("aiohttp",)),
    Subject("uvicorn", "bare ASGI echo on uvicorn", python_server("uvicorn"), Echo(), ("uvicorn",)),
    Subject("wsrpc-asgi", "wsrpc through ASGI on uvicorn", python_server("wsrpc-asgi"), WSRPC, ("uvicorn",)),
    Subject(
        "wsrpc-fastapi",
        "wsrpc in FastAPI through ASGI",
        python_server("wsrpc-fastapi"),
        WSRPC,
        ("uvicorn", "fastapi"),
    ),
    Subject(
        "wsrpc-uvicorn",
        "wsrpc in FastAPI, uvicorn protocol",
        python_server("wsrpc-uvicorn"),
        WSRPC,
        ("uvicorn", "fastapi"),
    ),
    Subject("js", "ws-wrapper on Node", javascript_server, WsWrapper(), ("node",)),
    Subject("js-json", "JSON over `ws` on Node", javascript_by_hand, BY_HAND, ("node",)),
    Subject("go", "ws-wrapper in Go", go_wrapper_server, WsWrapper(), ("go",), tls=False),
    Subject("go-json", "JSON over `coder/websocket` in Go", go_server("coder"), BY_HAND, ("go",), tls=False),
    Subject("centrifuge", "Centrifugo's library", go_server("centrifuge"), Centrifuge(), ("go",), tls=False),
    Subject(
        "uws",
        "JSON over uWebSockets",
        python_server("uws"),
        BY_HAND,
        ("socketify",),
        tls=False,
    ),
    Subject(
        "socketio",
        "python-socketio on uvicorn",
        python_server("socketio"),
        SocketIO(),
        ("socketio", "uvicorn", "uvloop", "httptools"),
        client="socketio",
    ),
    Subject("grpc", "grpc.aio", python_server("grpc"), Grpc(), ("grpc", "google.protobuf", "go"), client="grpc"),
    Subject(
        "fastapi-rpc",
        "fastapi-websocket-rpc on uvicorn",
        python_server("fastapi-rpc"),
        FastapiRpc(),
        ("fastapi_websocket_rpc", "uvicorn", "uvloop", "httptools"),
        client="fastapi-rpc",
    ),
    Subject("ceiling", "ceiling: echo in C", ceiling_server, Echo(broadcasts=True)),
)
