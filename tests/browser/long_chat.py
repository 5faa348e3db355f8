"""examples/ai_chat with answers of which only the last parts are kept."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

from wsrpc_adapters import redis
from wsrpc_adapters.redis import RedisStore


def small(url: str, **options: Any) -> RedisStore:
    return RedisStore(url, **options | {"log_bytes": 1000})


with patch.object(redis, "RedisStore", small):
    from web_app import app

__all__ = ["app"]
