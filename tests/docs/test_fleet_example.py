"""examples/fleet: the steps of its README, and what the README shows."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import sqlite3
import sys
from asyncio.subprocess import STDOUT, Process
from collections.abc import Iterator
from contextlib import AsyncExitStack, closing
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import programs
from engine_servers import redis_server
from programs import AIOHTTP, PYTHON, ROOT, free_port

EXAMPLE = ROOT / "examples" / "fleet"
STORED = r"the center has the readings up to (\d+)"


class Program:
    """A program of the example, with all that it prints."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.lines: list[str] = []
        self._next = 0
        self._printed = asyncio.Condition()
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            async with self._printed:
                self.lines.append(line.decode().rstrip())
                self._printed.notify_all()
        async with self._printed:
            self._printed.notify_all()

    async def says(self, pattern: str) -> str:
        """Wait for a line, after those that were waited for before; return its first group."""
        async with self._printed:
            while True:
                while self._next < len(self.lines):
                    self._next += 1
                    if found := re.search(pattern, self.lines[self._next - 1]):
                        return found[found.lastindex or 0]
                assert self.process.returncode is None, self.lines
                await self._printed.wait()

    def forget(self) -> None:
        """Wait only for lines that come from now on."""
        self._next = len(self.lines)

    async def ended(self) -> int:
        """Wait for its end, and return its status."""
        await self._reading
        return await self.process.wait()

    async def end(self, by: signal.Signals) -> int:
        """End it by a signal, if it has not ended, and return its status."""
        if self.process.returncode is None:
            self.process.send_signal(by)
        return await self.ended()


class Fleet:
    """The programs that run in one folder."""

    def __init__(self, folder: Path, redis: str, stack: AsyncExitStack) -> None:
        self._folder, self._stack = folder, stack
        self._env = {"REDIS": redis}
        self.ports = [free_port() for _ in range(3)]
        self.printed: list[list[str]] = []

    async def start(self, *words: str) -> Program:
        program = Program(await programs.start(*words, cwd=self._folder, env=self._env, stderr=STDOUT))
        self.printed.append(program.lines)
        self._stack.push_async_callback(program.end, signal.SIGKILL)
        return program

    async def worker(self, number: int) -> Program:
        program = await self.start(*PYTHON, str(EXAMPLE / "fleet_server.py"), str(self.ports[number]))
        await program.says("listening on")
        return program

    async def device(self, name: str, *options: str) -> Program:
        urls = [word for port in self.ports for word in ("--url", f"ws://127.0.0.1:{port}/ws")]
        return await self.start(*PYTHON, str(EXAMPLE / "device.py"), name, *urls, *options)

    async def operate(self, command: str, number: int, *words: str) -> list[str]:
        """The lines that a command of `wsrpc` prints, asked of a worker."""
        url = f"ws://127.0.0.1:{self.ports[number]}/ws"
        program = await self.start(*PYTHON, "-m", "wsrpc", command, url, *words, "--token", "token-of-ada")
        assert await program.ended() == 0, program.lines
        return program.lines


async def fetch(url: str, method: str = "GET") -> str:
    def read() -> str:
        try:
            with urlopen(Request(url, method=method), timeout=60) as response:
                return str(response.read().decode())
        except HTTPError as error:
            return f"{error.code} {json.load(error)['error']}"

    return await asyncio.to_thread(read)


def stored(folder: Path) -> Iterator[tuple[str, int, int]]:
    """Each device of the database, with the number of its readings and the number of the last one."""
    with closing(sqlite3.connect(folder / "center.db")) as database:
        yield from database.execute("SELECT device, count(*), max(number) FROM readings GROUP BY device")


def shapes(lines: list[str]) -> set[str]:
    """Lines without what differs from run to run: all words with a digit, and how a killed worker's connection ends."""
    return {" ".join(re.sub(r"\(1006 [^)]*\)|\S*\d\S*", "#", line).split()) for line in lines}


async def test_the_steps_of_its_readme(tmp_path: Path) -> None:
    redis = redis_server()
    async with AsyncExitStack() as stack:
        stack.callback(redis.end)
        fleet = Fleet(tmp_path, redis.url, stack)
        first = await fleet.worker(0)
        lock_2 = await fleet.device("lock-2", "--every", "0.25")  # at the worker that is killed later
        await lock_2.says("^connected")
        second, port = await fleet.worker(1), free_port()
        flask = "-m", "flask", "--app", str(EXAMPLE / "console.py"), "run", "-p", str(port)
        console = await fleet.start(sys.executable, *flask)
        site = await console.says(AIOHTTP)
        lock_1 = await fleet.device("lock-1", "--every", "0.25")
        for lock in (lock_1, lock_2):
            await lock.says(STORED)

        # A command for a device that is away.
        fleet.printed.append([await fetch(f"{site}/lock-3/unlock/2", "POST")])
        key = json.loads(fleet.printed[-1][0])["key"]
        fleet.printed.append([await fetch(f"{site}/lock-3/unlock/{key}")])
        assert json.loads(fleet.printed[-1][0]) == {"state": "waiting", "value": None, "error": None}
        fleet.printed.append([await fetch(f"{site}/lock-3/unlock/4", "POST")])
        other = json.loads(fleet.printed[-1][0])["key"]
        fleet.printed.append([await fetch(f"{site}/lock-3/unlock/{other}", "DELETE")])
        assert json.loads(fleet.printed[-1][0]) == {"state": "withdrawn"}
        fleet.printed.append([await fetch(f"{site}/lock-3/waiting")])
        assert json.loads(fleet.printed[-1][0]) == [{"key": key, "call": ["unlock", 2], "state": "waiting"}]
        lock_3 = await fleet.device("lock-3", "--every", "0.25")
        await lock_3.says("door 2 is open")
        answer = await fetch(f"{site}/lock-3/unlock/{key}")
        while json.loads(answer)["state"] != "done":  # until the device's answer is stored
            answer = await fetch(f"{site}/lock-3/unlock/{key}")
        assert json.loads(answer)["value"] == "lock-3 has opened door 2"
        fleet.printed.append([answer])

        # Who is refused.
        lock_4 = await fleet.device("lock-4")
        assert await lock_4.ended() == 1
        stats = await fleet.operate("stats", 0)
        assert "403 reported stolen: 1" in str(stats)
        assert await first.says(r"\('(lock-4)'\): 403 reported stolen") == "lock-4"
        assert await lock_1.end(signal.SIGINT) == 0
        busy = await fleet.device("lock-1", "--every", "0.01")
        await busy.says("readings are kept: Overloaded")
        shares = await fleet.operate("stats", 1, "--by", "principal")
        assert any(re.search(r" [1-9]\d* +\d+ +lock-1$", line) for line in shares), shares
        assert await busy.end(signal.SIGINT) == 0
        lock_1 = await fleet.device("lock-1", "--every", "0.25")
        await lock_1.says(STORED)
        await fleet.operate("peers", 0)
        locks = [lock_1, lock_2, lock_3]

        async def all_report() -> None:
            for lock in locks:
                lock.forget()
                await lock.says(STORED)

        # A worker that is killed, one that drains, and one more.
        assert await first.end(signal.SIGKILL) == -signal.SIGKILL
        await lock_2.says(r"^WARNING the connection ended \(1006")
        await all_report()
        first = await fleet.worker(0)
        assert await second.end(signal.SIGTERM) == 0
        await all_report()
        fleet.printed.append([(await fetch(f"http://127.0.0.1:{fleet.ports[0]}/healthz")).strip()])
        assert fleet.printed[-1] == ["ok"]
        third = await fleet.worker(2)
        moved = await fleet.operate("rebalance", 0)
        assert re.fullmatch(r"moved \d+ clients?", moved[-1]), moved
        await all_report()
        for lock in locks:
            assert await lock.end(signal.SIGINT) == 0, lock.lines
        for worker in (first, third):
            assert await worker.end(signal.SIGTERM) == 0, worker.lines
        redis.end()
        while (answer := await fetch(f"{site}/lock-3/waiting")) != "503 Redis is away":
            assert answer.startswith("503 "), "it has not noticed yet"
        assert await console.end(signal.SIGINT) in (0, -signal.SIGINT), console.lines

    found = list(stored(tmp_path))
    assert [device for device, _, _ in found] == ["lock-1", "lock-2", "lock-3"]
    assert all(count == last for _, count, last in found), found
    assert sum(line.startswith("door") for lines in fleet.printed for line in lines) == 1
    readme = (EXAMPLE / "README.md").read_text("utf-8")
    shown = re.findall(r"^    (?!\$ )(.+)$", readme, re.MULTILINE)
    assert shown and shapes(shown) - shapes([line for lines in fleet.printed for line in lines]) == set()
