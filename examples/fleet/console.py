"""The console of the fleet, a synchronous Flask program: ``flask --app console run``, see README.md.

It joins the cluster and needs no worker. A command for a device that is away waits in the store, without the console.
"""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from flask import Flask
from fleet_settings import NAME, engine, store

from wsrpc import WsrpcError
from wsrpc.blocking import ClusterClient

app = Flask(__name__)
fleet = ClusterClient(engine(), name=NAME, store=store())


@app.before_request
def check_redis() -> tuple[dict[str, str], int] | None:
    """Connect in the first request of each process. Without Redis, each call would wait for its ``timeout=``."""
    fleet.connect()
    return None if fleet.connected else ({"error": "Redis is away"}, 503)


@app.post("/<device>/unlock/<int:door>")
def unlock(device: str, door: int) -> tuple[dict[str, Any], int]:
    """Return at once, with the key by which `result` finds the command."""
    key = str(uuid4())
    fleet.peer(device).submit("unlock", door, key=key, deliver_within=3600, timeout=10)
    return {"key": key}, 202


@app.get("/<device>/unlock/<key>")
def result(device: str, key: str) -> dict[str, Any]:
    call = fleet.peer(device).submitted("unlock", key=key, timeout=2)
    return {"state": call.state, "value": call.value, "error": call.error and str(call.error)}


@app.get("/<device>/waiting")
def waiting(device: str) -> list[dict[str, Any]]:
    calls = fleet.peer(device).waiting(timeout=2)
    return [{"key": call.key, "call": [call.event, *call.args], "state": call.state} for call in calls]


@app.delete("/<device>/unlock/<key>")
def withdraw(device: str, key: str) -> dict[str, str]:
    """Cancel a command that was not delivered yet. Only the state "withdrawn" means that it never runs."""
    return {"state": fleet.peer(device).withdraw("unlock", key=key, timeout=2).state}


@app.errorhandler(WsrpcError)
def unavailable(error: WsrpcError) -> tuple[dict[str, str], int]:
    return {"error": str(error)}, 503  # Redis is away, or too many commands wait for this device
