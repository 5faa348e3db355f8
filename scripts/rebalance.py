"""Rebalances sessions from two workers to four, under calls and streams, with real processes, and prints how it went.

Usage:
    python scripts/rebalance.py [--clients 1000] [--rate 10]

Each worker is a process in a cluster with NATS. The load balancer is a random choice. Each client makes a call per
second, and each tenth one reads streams of ten seconds. The script fails if a call fails or runs twice, if a stream has
a gap, or if the workers are not even within 10 % at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

from wsrpc import Client, Peer, Server
from wsrpc.cluster import Cluster
from wsrpc_adapters.nats import NatsEngine

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))


def everybody(peer: Peer, action: str) -> bool:
    return True


def serve(engine: str) -> None:
    """Be a worker."""
    server = Server(cluster=Cluster(NatsEngine(engine)), admin=everybody)
    calls = list[int]()

    @server.on("echo")
    def echo(number: int) -> int:
        calls.append(number)
        return number

    @server.on("count")
    async def count() -> AsyncIterator[int]:
        for number in range(50):
            yield number
            await asyncio.sleep(0.2)

    @server.on("calls")
    def count_calls() -> int:
        return len(calls)

    async def listen() -> None:
        async with server.listen() as listener:
            print(listener.url, flush=True)
            await server.serve_forever()

    asyncio.run(listen())


async def use(client: Client, streams: bool, over: asyncio.Event) -> tuple[int, int]:
    """Call and read until it is ``over``. Return the number of calls and of streams."""
    made = read = 0
    while not over.is_set():
        if streams:
            assert [number async for number in client.stream("count", returns=int)] == list(range(50))
            read += 1
        await asyncio.sleep(2 * random.random())
        assert await client.request("echo", made) == made
        made += 1
    return made, read


async def measure(clients: int, rate: int, engine: str) -> None:
    """Start workers and clients, move clients, and check what has become of them."""
    workers = list[subprocess.Popen[str]]()

    def start() -> str:
        command = [sys.executable, __file__, "--worker", engine]
        workers.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        output = workers[-1].stdout
        assert output is not None
        return output.readline().strip()

    urls, over = [start(), start()], asyncio.Event()
    try:
        made = [Client(lambda: random.choice(urls)) for _ in range(clients)]
        for client in made:
            await client.connect()
        uses = [asyncio.create_task(use(client, n % 10 == 0, over)) for n, client in enumerate(made)]
        urls += [start(), start()]
        await asyncio.sleep(5)
        began = time.monotonic()
        command = [sys.executable, "-m", "wsrpc", "rebalance", urls[0], "--rate", str(rate)]
        ended = await (await asyncio.create_subprocess_exec(*command)).wait()
        print(f"wsrpc rebalance: exit code {ended} after {time.monotonic() - began:.0f} s")
        over.set()
        done = await asyncio.gather(*uses)
        calls, ran = sum(calls for calls, _ in done), 0
        for url in urls:
            async with Client(url) as client:
                ran += await client.request("calls", returns=int)
        print(f"{calls} calls, {ran} runs of their handler, {sum(read for _, read in done)} streams without a gap")
        await asyncio.gather(*[client.close() for client in made])
        assert (ended, ran) == (0, calls)
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--rate", type=int, default=10)
    parser.add_argument("--worker", metavar="ENGINE", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        serve(options.worker)
        return
    from engine_servers import nats_server

    engine = nats_server()
    try:
        asyncio.run(measure(options.clients, options.rate, engine.url))
    finally:
        engine.kill()


if __name__ == "__main__":
    main()
