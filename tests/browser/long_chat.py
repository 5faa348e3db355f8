"""examples/ai_chat with answers of which only the last parts are kept."""

from __future__ import annotations

from functools import partial
from unittest.mock import patch

from wsrpc_adapters import redis

with patch.object(redis, "RedisStore", partial(redis.RedisStore, log_bytes=1000)):
    from web_app import app

__all__ = ["app"]
