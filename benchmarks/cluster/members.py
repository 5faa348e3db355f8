"""Members of a room: ``python -m benchmarks.cluster.members KIND COUNT PORT…`` says ``ready``.

A line ``COUNT`` says how many messages come; the answer is when all members have all of them.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from ..floods.attacks import AT_ONCE, frame, opening
from .worker import MARK

PATIENCE = 60.0
SOUGHT = MARK.encode()

TARGET = {"wsrpc": "/", "socketio": "/socket.io/?EIO=4&transport=websocket"}
GREETED = {"wsrpc": b"HTTP/1.1 101", "socketio": b'40{"sid"'}
"""What a server says when the connection is there."""
OPENED, ASK = b'0{"sid"', frame("40")
"""What a server of Engine.IO says first, and how a client then asks for the default namespace of Socket.IO."""


class Member(asyncio.Protocol):
    """Counts the messages that it gets, whatever is around them."""

    wanted = 0
    missing = 0
    """Members that have not got everything."""
    all_have: asyncio.Event

    def __init__(self, kind: str, port: int) -> None:
        self._kind = kind
        self._port = port
        self._transport: Any = None
        self._asked = False
        self._rest = b""
        """What may be the beginning of what is looked for."""
        self.got = 0
        self.joined = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        transport.write(opening(self._port).replace(b" / ", f" {TARGET[self._kind]} ".encode(), 1))

    def data_received(self, data: bytes) -> None:
        data = self._rest + data
        if not self.joined.done():
            self._rest = data
            if OPENED in data and not self._asked:
                self._asked = True
                self._transport.write(ASK)
            if GREETED[self._kind] in data:
                self._rest = b""
                self.joined.set_result(None)
            return
        before = self.got
        self.got += data.count(SOUGHT)
        self._rest = data[max(data.rfind(SOUGHT) + len(SOUGHT), len(data) - len(SOUGHT) + 1) :]
        if before < Member.wanted <= self.got:
            Member.missing -= 1
            if not Member.missing:
                Member.all_have.set()


async def main(kind: str, count: int, ports: list[int]) -> None:
    loop = asyncio.get_running_loop()
    turn = asyncio.Semaphore(AT_ONCE)
    Member.all_have = asyncio.Event()

    async def one(port: int) -> Member:
        async with turn:
            _, member = await loop.create_connection(lambda: Member(kind, port), "127.0.0.1", port)
            await member.joined
            return member

    members = await asyncio.gather(*(one(ports[number % len(ports)]) for number in range(count)))
    print("ready", flush=True)
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        Member.all_have.clear()
        Member.wanted += int(line)
        Member.missing = sum(member.got < Member.wanted for member in members)
        print("set", flush=True)
        await asyncio.wait_for(Member.all_have.wait(), PATIENCE)
        print("all", flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), [int(port) for port in sys.argv[3:]]))
