"""What the programs of the fleet share: the name of the cluster, its Redis, and who has which token."""

from __future__ import annotations

import os

from wsrpc_adapters.redis import RedisEngine, RedisStore

NAME = "fleet"
REDIS = os.environ.get("REDIS", "redis://127.0.0.1:6379")
TOKENS = {f"token-of-{who}": who for who in ("lock-1", "lock-2", "lock-3", "lock-4", "ada")}
"""In production, a table of the hashes of the tokens."""
STOLEN = {"lock-4"}
OPERATORS = {"ada"}


def engine() -> RedisEngine:
    return RedisEngine(REDIS)


def store() -> RedisStore:
    return RedisStore(REDIS, name=NAME)
