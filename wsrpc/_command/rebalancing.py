"""The command ``rebalance``: moves idle clients between the processes of a cluster until all have as many."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import click

from .._server.operating.balance_plan import ROUND_PAUSE, BalancePlan
from .._server.operating.operations import Operations
from ..errors import one_line
from .command_errors import REMOTE, Failure
from .command_options import Command, Options
from .operating import OPERATOR, node_of, number_of, operations
from .running import Job, ValueWriter, in_event_loop


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

    Raises:
        Failure: the servers do not get even, or one does not answer.
    """
    plan = BalancePlan(peers, rate)
    batch = plan.next(peers, 0)
    while batch is not None:
        peers, moved = await _move(through, *batch)
        if (batch := plan.next(peers, moved)) is not None:
            await asyncio.sleep(ROUND_PAUSE)
    if plan.why_not is not None:
        raise Failure(plan.why_not, REMOTE)
    return peers, plan.total


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


async def _print(output: ValueWriter, peers: dict[str, int]) -> None:
    for node, count in peers.items():
        await output.line(f"{node:<16}  {count} client{'' if count == 1 else 's'}")
