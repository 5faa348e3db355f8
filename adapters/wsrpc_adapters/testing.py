"""`fresh_name`: a name under which no store and no cluster has anything, for tests with a real Redis or PostgreSQL."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any


@asynccontextmanager
async def fresh_name(url: str) -> AsyncGenerator[str]:
    """Give a test a name of its own for ``RedisStore(name=)``, ``PostgresStore(schema=)`` and ``Cluster(name=)``.

    What a store keeps outlives a test, and processes with the name of a cluster join it. With another name, a test
    finds nothing and joins nobody.

    Args:
        url: the URL of the server of Redis, PostgreSQL or NATS. At the end of the block, all that it has under the name
            is removed: close your servers before. NATS keeps nothing.

    Raises:
        ValueError: the URL is of something else.
    """
    kind = url.partition(":")[0]
    if kind not in REMOVE:
        raise ValueError(f"fresh_name takes a URL that begins with {', '.join(REMOVE)}, got {kind!r}")
    name = f"test_{secrets.token_hex(8)}"
    try:
        yield name
    finally:
        if (remove := REMOVE[kind]) is not None:
            await remove(url, name)


async def _remove_keys(url: str, name: str) -> None:
    import redis.asyncio

    connect: Any = redis.asyncio.from_url
    async with connect(url) as client:
        async for key in client.scan_iter(match=f"*{name}*"):
            await client.unlink(key)


async def _remove_schema(url: str, name: str) -> None:
    import asyncpg

    connection: Any = await asyncpg.connect(url)
    try:
        await connection.execute(f"DROP SCHEMA IF EXISTS {name} CASCADE")
    finally:
        await connection.close()


REMOVE: dict[str, Callable[[str, str], Awaitable[None]] | None] = {
    **dict.fromkeys(("redis", "rediss", "unix"), _remove_keys),
    **dict.fromkeys(("postgresql", "postgres"), _remove_schema),
    **dict.fromkeys(("nats", "tls")),
}
"""How to remove what a server has under a name, by the scheme of its URL. None: it keeps nothing."""
