"""What the chat and its cron jobs share: the name of the cluster, and its engine."""

from __future__ import annotations

import os

from wsrpc.cluster.engine import Engine

NAME = "chat"


def engine() -> Engine:
    """Return the engine that the environment names: `ENGINE=redis://127.0.0.1:6379`, or NATS on its usual port."""
    url = os.environ.get("ENGINE", "nats://127.0.0.1:4222")
    if url.startswith("redis"):
        from wsrpc_adapters.redis import RedisEngine

        return RedisEngine(url)
    from wsrpc_adapters.nats import NatsEngine

    return NatsEngine(url)
