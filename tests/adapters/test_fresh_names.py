"""`fresh_name`: what a test keeps under its name goes with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import asyncpg
import pytest
from engine_servers import PostgresServer, redis_server
from redis.asyncio import Redis

from wsrpc import Server
from wsrpc.cluster import Cluster, MemoryEngine
from wsrpc.testing import connect
from wsrpc_adapters.postgres import PostgresStore
from wsrpc_adapters.redis import RedisEngine, RedisStore
from wsrpc_adapters.testing import fresh_name


async def pay(server: Server) -> str:
    """Call a handler that says who runs it, with a key that each test has."""

    @server.on("pay", keep=60)
    async def pay_once() -> str:
        return str(id(server))

    async with connect(server, principal="ada") as client:
        paid = await client.request("pay", key="order-1")
    await server.close()
    return str(paid)


@pytest.mark.parametrize("scheme", ["redis", "unix"])
async def test_redis(scheme: str, tmp_path: Path) -> None:
    redis = redis_server("--unixsocket", str(tmp_path / "redis"))
    url = redis.url if scheme == "redis" else f"unix://{tmp_path}/redis"
    try:
        async with Redis.from_url(url) as client:
            for _ in range(2):  # the second test does not find the result of the first one
                async with fresh_name(url) as name:
                    cluster = Cluster(RedisEngine(url), name=name)
                    server = Server(store=RedisStore(url, name=name), cluster=cluster)
                    assert await pay(server) == str(id(server))
                    assert await client.dbsize() > 0
                assert await client.dbsize() == 0
    finally:
        redis.kill()


async def test_postgres() -> None:
    postgres = PostgresServer()
    try:
        async with fresh_name(postgres.url) as name:
            server = Server(store=PostgresStore(postgres.url, schema=name))
            assert await pay(server) == str(id(server))
        db: Any = await asyncpg.connect(postgres.url)
        assert await db.fetchval("SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'test_%'") == 0
        await db.close()
    finally:
        postgres.kill()


async def test_other_urls() -> None:
    async with fresh_name("nats://127.0.0.1") as one, fresh_name("tls://127.0.0.1") as other:
        assert Cluster(MemoryEngine(), name=one).name != other
    with pytest.raises(ValueError, match=r"begins with redis, .*, got 'http'"):
        async with fresh_name("http://127.0.0.1"):
            pass
