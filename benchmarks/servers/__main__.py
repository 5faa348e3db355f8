"""``python -m benchmarks.servers KIND [OPTIONS]``: see `benchmarks.servers`."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import logging

from .handlers import Options, Serve

KINDS = {
    "websockets": "bare:websockets",
    "aiohttp": "bare:aiohttp",
    "uvicorn": "bare:uvicorn",
    "by-hand": "by_hand:serve",
    "wsrpc": "with_wsrpc:default",
    "wsrpc-off": "with_wsrpc:without_sessions",
    "wsrpc-aiohttp": "with_wsrpc:on_aiohttp",
    "wsrpc-asgi": "with_wsrpc:on_asgi",
    "wsrpc-fastapi": "with_fastapi:plain",
    "wsrpc-uvicorn": "with_fastapi:with_our_protocol",
    "socketio": "with_socketio:serve",
    "fastapi-rpc": "with_fastapi_rpc:serve",
    "grpc": "with_grpc:serve",
    "uws": "with_uws:serve",
}
"""Module and function of each. Imported late, so that a library that is missing takes no other server with it."""

ON_UVLOOP = {"socketio", "fastapi-rpc"}
"""Those whose documentation advises uvloop. All others run on asyncio's own event loop."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.servers")
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--redis", type=int)
    arguments = vars(parser.parse_args())
    kind = arguments.pop("kind")
    # Nobody reads what a server under load logs.
    logging.disable()
    module, _, function = KINDS[kind].partition(":")
    serve: Serve = getattr(importlib.import_module(f"{__package__}.{module}"), function)
    serving = serve(Options(**arguments))
    if serving is None:  # its library has run an event loop of its own
        return
    if kind in ON_UVLOOP:
        import uvloop

        uvloop.run(serving)
    else:
        asyncio.run(serving)


if __name__ == "__main__":
    main()
