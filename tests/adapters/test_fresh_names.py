"""`fresh_name`: what a test keeps under its name goes with it."""

from __future__ import annotations

from typing import Any

import asyncpg
import pytest
from engine_servers import PostgresServer, redis_server
from redis.asyncio import Redis

from wsrpc import Server
from wsrpc.cluster import Cluster
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


async def test_redis() -> None:
    redis = redis_server()
    try:
        async with Redis.from_url(redis.url) as client:
            for _ in range(2):  # the second test does not find the result of the first one
                async with fresh_name(redis.url) as name:
                    cluster = Cluster(RedisEngine(redis.url), name=name)
                    server = Server(store=RedisStore(redis.url, name=name), cluster=cluster)
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


async def test_another_url() -> None:
    with pytest.raises(ValueError, match="begins with redis: or postgresql:, got 'nats'"):
        async with fresh_name("nats://127.0.0.1"):
            pass
