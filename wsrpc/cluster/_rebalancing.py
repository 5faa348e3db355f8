"""`keep_even`: moves idle clients to servers that have joined the cluster; see `Cluster`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf

from .._base.logs import logger
from .._server.operating.balance_plan import ROUND_PAUSE, BalancePlan
from .._server.operating.rebalancing import Rebalancing
from ._membership import ClusterMembership

QUIET = 30.0
"""Seconds without a server that joins or leaves, until clients move. It is longer than a drain by default, so that a
restart of all servers, one after another, is one change."""


async def keep_even(
    membership: ClusterMembership, rebalancing: Rebalancing, rate: int, is_joined: Callable[[], bool]
) -> None:
    """Move clients of this server after servers have joined, until all servers have as many.

    Each server decides for itself, by the numbers that nodes tell each other. Only connections move that are older than
    the server that has joined last, so each client moves at most once.
    """
    me, time = membership.node.id, asyncio.get_running_loop().time
    known, joined_at, quiet_at, moved = set[str](), inf, inf, 0
    plan: BalancePlan | None = None
    while is_joined():
        await asyncio.sleep(ROUND_PAUSE)
        servers, now = membership.directory.servers, time()
        if servers.keys() != known:
            joined_at = joined_at if servers.keys() < known else now
            known, quiet_at, plan, moved = {*servers}, now + QUIET, None, 0
        elif joined_at < inf and quiet_at <= now and me in known and membership.connected:
            plan = plan or BalancePlan(servers, rate)
            servers[me] += moved  # before the last batch, like the other numbers
            if (batch := plan.next(servers, moved)) is not None:
                _, moved = rebalancing.move(*batch, min_age=now - joined_at)
                continue
            if plan.why_not and plan.total:
                logger.warning("%s", plan.why_not)
            joined_at, plan, moved = inf, None, 0
