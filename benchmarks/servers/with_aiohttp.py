"""aiohttp, for the applications on it."""

from __future__ import annotations

from aiohttp import web

from .handlers import BACKLOG, HOST, Options, parent_left, say_port


async def serve(app: web.Application, options: Options) -> None:
    """Serve an application of aiohttp."""
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, HOST, 0, shutdown_timeout=1.0, ssl_context=options.ssl, backlog=BACKLOG).start()
    say_port(runner.addresses[0][1])
    await parent_left()
    await runner.cleanup()
