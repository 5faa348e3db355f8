"""The command ``rebalance``: moves idle clients between the processes of a cluster until all have as many."""

from __future__ import annotations

import asyncio
import math
from contextlib import aclosing
from operator import itemgetter

import click

from .._server.operating.operations import Operations
from ..errors import one_line
from .command_errors import REMOTE, Failure
from .command_options import Command, Options
from .operating import OPERATOR, node_of, number_of, operations
from .running import Job, ValueWriter, in_event_loop

EVEN = 0.1
"""The part of the mean by which the processes may differ from it at the end."""

ROUND_PAUSE = 1.0
"""Seconds in which each process moves a batch of clients. They connect again meanwhile."""

ROUNDS = 20
"""Number of batches without progress after which the command gives up."""

CHANCES, SLOW = 5, 3
"""The command gives up, too, if this many clients for each server have moved, and the emptiest server has got none,
which at random happens in less than 1 % of the cases; but not in the first batches, because clients may dial slowly."""

WHY = "see the load balancer, and the clients' lists of URLs, such as Client([url, url])"


@click.command(cls=Command, epilog="\b\nexample:\n  wsrpc rebalance redis://127.0.0.1:6379 --cluster shop --rate 20")
@OPERATOR
@click.option(
    "--rate", type=click.IntRange(1), default=10, help="Clients that each process moves per second (default: 10)."
)
@in_event_loop
async def rebalance(options: Options, job: Job) -> None:
    """Move idle clients to other servers of a cluster, until each server has as many, within 10 %.

    A client moves when it connects again through your load balancer. Clients with calls or streams in flight stay.

    URL is that of a server that allows it by Server(admin=...), or of the engine of a cluster, such as redis://host.
    """
    output = ValueWriter(job)
    async with operations(options, job) as through:
        peers, _ = await _move(through, 0, 0)
        await _print(output, peers)
        job.doing = "some clients may have been moved"
        peers, total = await make_even(through, peers, options.rate)
        await _print(output, peers)
        await output.line(f"moved {total} client{'' if total == 1 else 's'}")


async def make_even(through: Operations, peers: dict[str, int], rate: int) -> tuple[dict[str, int], int]:
    """Move clients until all servers have as many. Return the clients of each server, and how many were moved.

    Clients may return to the server from which they were moved, so the number of rounds is not fixed.

    Raises:
        Failure: some rounds were without progress, no client reaches the emptiest server, or a server does not answer.
    """
    emptiest, count = min(peers.items(), key=itemgetter(1))
    is_reached = False
    total, moved, rounds, best = 0, 0, 0, math.inf
    while moved or not _are_even(peers):
        mean = sum(peers.values()) // len(peers)
        above = sum(max(0, count - mean) for count in peers.values()) + moved  # some of these are not back yet
        rounds, best = (0, above) if above < best else (rounds + 1, best)
        if rounds == ROUNDS:
            advice = f"the others are busy, or return to the same servers: {WHY}"
            raise Failure(f"moved {total} clients, but the servers are not even: {advice}", REMOTE)
        if not is_reached and rounds >= SLOW and total - moved >= CHANCES * len(peers):
            raise Failure(f"moved {total} clients, but none reaches {emptiest}, which has {count}: {WHY}", REMOTE)
        peers, moved = await _move(through, 0 if _are_even(peers) else rate, mean)
        total += moved
        is_reached |= peers.get(emptiest, math.inf) > count
        await asyncio.sleep(ROUND_PAUSE if moved or not _are_even(peers) else 0)
    return peers, total


async def _move(through: Operations, most: int, down_to: int) -> tuple[dict[str, int], int]:
    """Ask each server to move clients. Return the number of clients of each server before, and of those that move."""
    peers, moved = dict[str, int](), 0
    async with aclosing(through.rebalance(most, down_to)) as rows:
        async for row in rows:
            if "error" in row:
                text = f"not all processes have answered: {node_of(row)} ({one_line(row['error'])})"
                raise Failure(text, REMOTE)
            peers[node_of(row)] = number_of(row.get("peers"))
            moved += number_of(row.get("moved"))
    return peers, moved


def _are_even(peers: dict[str, int]) -> bool:
    mean = sum(peers.values()) / max(1, len(peers))
    return all(abs(count - mean) <= max(1, EVEN * mean) for count in peers.values())


async def _print(output: ValueWriter, peers: dict[str, int]) -> None:
    for node, count in peers.items():
        await output.line(f"{node:<16}  {count} client{'' if count == 1 else 's'}")
