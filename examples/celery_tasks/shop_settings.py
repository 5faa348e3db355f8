"""Where everything is: the server, the engine of its cluster, and the broker and the results of Celery."""

from __future__ import annotations

import os

from wsrpc_adapters.redis import RedisEngine, RedisStore

NAME = "shop"
PORT = int(os.environ.get("PORT", "8080"))
SERVER = os.environ.get("SERVER", f"ws://127.0.0.1:{PORT}/")
REDIS = os.environ.get("REDIS", "redis://127.0.0.1:6379")
BROKER = os.environ.get("BROKER", REDIS)
BACKEND = os.environ.get("BACKEND", REDIS)


def engine() -> RedisEngine:
    return RedisEngine(REDIS)


def store() -> RedisStore:
    return RedisStore(REDIS, name=NAME)
