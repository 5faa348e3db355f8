"""The ways to open a connection, each with the same tests: `Client(url, dial=...)`."""

from __future__ import annotations

from dataclasses import dataclass

import wsrpc_adapters.aiohttp
from wsrpc import dial
from wsrpc.types import Dial


@dataclass(frozen=True)
class Dialing:
    """A function that dials."""

    name: str
    dial: Dial

    def __repr__(self) -> str:
        return self.name


DIALINGS = [Dialing("websockets", dial), Dialing("aiohttp", wsrpc_adapters.aiohttp.dial)]
