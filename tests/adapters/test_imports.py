"""Adapters whose library is missing."""

from __future__ import annotations

import subprocess
import sys

MISSING = {name: name for name in ("aiohttp", "nats", "opentelemetry", "redis")} | {
    "postgres": "asyncpg",
    "prometheus": "prometheus_client",
    "uvicorn": "uvicorn.protocols.websockets.websockets_sansio_impl",  # an old one has none
}
PROGRAM = f"""
import importlib, sys
for name, library in {MISSING}.items():
    sys.modules[library] = None
    try:
        importlib.import_module(f"wsrpc_adapters.{{name}}")
    except ImportError as exc:
        print(exc)
"""


def test_the_error_says_what_to_install() -> None:
    ran = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    for name, line in zip(MISSING, ran.stdout.splitlines(), strict=True):
        assert f"python-wsrpc[{name}]" in line
