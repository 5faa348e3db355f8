"""Clients that send back each message: a library alone, and a transport that wsrpc dials with the same library.

`python -m interop.autobahn.clients NAME WHICH URL` goes through all cases of the suite's server at ``URL``.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterable

from websockets.asyncio.client import connect

from wsrpc import CloseCode, CloseInfo, dial
from wsrpc.transport import Transport

from .echoes import LARGEST, LIMITS

Client = Callable[[str], Awaitable[None]]
"""Connects to a URL, sends back each message until the connection ends."""


async def websockets_alone(url: str) -> None:
    async with connect(url, max_size=LARGEST, ping_interval=None, proxy=None) as connection:
        async for message in connection:
            await connection.send(message)


async def aiohttp_alone(url: str) -> None:
    from aiohttp import ClientSession, WSMsgType

    async with ClientSession() as session, session.ws_connect(url, max_msg_size=LARGEST, compress=15) as connection:
        async for message in connection:
            if message.type is WSMsgType.TEXT:
                await connection.send_str(message.data)
            elif message.type is WSMsgType.BINARY:
                await connection.send_bytes(message.data)


class Echo:
    """A receiver that sends back each message. What is text is its own matter, as it is that of wsrpc's codecs."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._closing: asyncio.Task[None] | None = None
        self.over = asyncio.Event()

    def receive(self, payload: bytes | bytearray, text: bool, /) -> None:
        if self._closing is not None:
            return
        if text:
            try:
                payload.decode()
            except UnicodeDecodeError:
                self._closing = asyncio.ensure_future(self._transport.close(CloseCode.INVALID_DATA))
                return
        self._transport.send(bytes(payload), text)

    def read_ended(self) -> None: ...

    def pause_sending(self) -> None: ...

    def resume_sending(self) -> None: ...

    def connection_lost(self, info: CloseInfo, /) -> None:
        self.over.set()


async def _echo(transport: Transport) -> None:
    echo = Echo(transport)
    transport.start(echo)
    await echo.over.wait()


async def wsrpc_on_websockets(url: str) -> None:
    await _echo(await dial(url, limits=LIMITS, compression=True, proxy=None))


async def wsrpc_on_aiohttp(url: str) -> None:
    import wsrpc_adapters.aiohttp

    await _echo(await wsrpc_adapters.aiohttp.dial(url, limits=LIMITS, compression=True, proxy=None))


CLIENTS: dict[str, tuple[Client, Client]] = {
    "websockets": (websockets_alone, wsrpc_on_websockets),
    "aiohttp": (aiohttp_alone, wsrpc_on_aiohttp),
}
"""The library alone, and wsrpc on it."""


async def main(arguments: Iterable[str]) -> None:
    name, which, url = arguments
    client = CLIENTS[name][which == "wsrpc"]
    async with connect(f"{url}/getCaseCount", proxy=None) as connection:
        count = int(await connection.recv())
    for case in range(1, count + 1):
        try:
            await client(f"{url}/runCase?case={case}&agent=echo")
        except Exception as exc:  # the suite judges what it saw
            print(f"case {case}: {exc!r}", file=sys.stderr)
    async with connect(f"{url}/updateReports?agent=echo", proxy=None) as connection:
        await connection.wait_closed()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
