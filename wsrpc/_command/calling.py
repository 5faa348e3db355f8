"""The commands ``call``, ``stream`` and ``emit``, which send one request or event."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import click

from .._base.names import RESERVED_EVENTS, check_event
from .._base.retry import Retry
from .._client.client import core_of
from ..errors import RequestTimeout, ReservedEvent, UnexpectedChannel
from .command_connection import FIRST_DELAY, connected, on_channel
from .command_errors import REMOTE, TIMEOUT, UNKNOWN, Failure, UsageError
from .command_options import CALL, CLUSTER, UPLOAD, Command, Options, items_option
from .command_values import argument, items_of
from .running import ItemCount, Job, ValueWriter, in_event_loop

ARGUMENTS = """\b
An argument is
  2, true, '"Ada"', '{"a": [1]}'   JSON
  @FILE                            the JSON in a file
  @text:FILE, @bytes:FILE          the text or the bytes of a file
  -                                items from stdin, which are uploaded
After --, it can begin with -.
"""


@click.command(
    cls=Command,
    epilog=f"""{ARGUMENTS}
\b
examples:
  wsrpc call ws://localhost:8080 add 2 3
  seq 5 | wsrpc call ws://localhost:8080 total -
  wsrpc call ws://localhost:8080 store '"photo.png"' --send photo.png --as bytes""",
)
@CALL
@UPLOAD
@click.option("--peer", metavar="PEER", help="Call this peer of the server, which is named by its address or its id.")
@CLUSTER
@in_event_loop
async def call(options: Options, job: Job) -> None:
    """Send a request, with an upload if there is one, and print its response.

    With --peer, URL is that of a server that allows it by Server(admin=...), or of the engine of a cluster.
    """
    await _request(options, job, options.peer)


@click.command(
    cls=Command,
    epilog=f"""{ARGUMENTS}
\b
examples:
  wsrpc stream ws://localhost:8080 countdown 3
  wsrpc stream ws://localhost:8080 prices '"ACME"' --take 10 | jq .price""",
)
@CALL
@UPLOAD
@items_option("items")
@in_event_loop
async def stream(options: Options, job: Job) -> None:
    """Request a stream, and print its items as they arrive."""
    args, sent = _arguments(options, job)
    output = ValueWriter(job)
    limits = _sent_along(options)
    if options.timeout is not None:
        limits["timeout"] = options.timeout
    progress = ItemCount(job, f"{options.event} was stopped")
    async with connected(options, job) as client:
        job.doing = f"{options.event} was cancelled"
        items = on_channel(client, options.channel).stream(options.event, *args, send=sent, **limits)
        async with items:
            job.doing = f"{options.event} was stopped"
            async for item in items:
                await output.value(item)
                progress.add()
                if progress.items == options.take:
                    break


@click.command(
    cls=Command,
    epilog=f"""{ARGUMENTS}
\b
example:
  wsrpc emit ws://localhost:8080 say '"hello"' --channel chat""",
)
@CALL
@in_event_loop
async def emit(options: Options, job: Job) -> None:
    """Send an event.

    The command ends when the event has been sent. Events have no response.
    """
    _check_event(options)
    args = [argument(text) for text in options.args]
    async with connected(options, job) as client:
        job.doing = f"{options.event} may not have arrived"
        await on_channel(client, options.channel).emit(options.event, *args, **_sent_along(options))
    if not core_of(client).peer_session.session.last_close.was_clean:
        raise Failure(f"{job.doing}: the connection dropped before the server had read everything", UNKNOWN)


async def _request(options: Options, job: Job, peer: str | None = None) -> None:
    began = time.monotonic()
    args, sent = _arguments(options, job)
    output = ValueWriter(job)
    async with _asking(options, job, peer, args, sent) as ask:
        job.doing = f"{options.event} was cancelled"
        limits = _sent_along(options)
        if options.timeout is not None:
            limits["timeout"] = max(0.001, began + options.timeout - time.monotonic())
        try:
            answer = await ask(**limits)
        except RequestTimeout as exc:
            if options.timeout is None:
                raise
            text = f"no response to {options.event!r} within {options.timeout:g} s"  # connecting took part of the time
            raise Failure(text, TIMEOUT) from exc
        job.doing = "the connection was closed"
        await output.value(answer)


@asynccontextmanager
async def _asking(
    options: Options, job: Job, peer: str | None, args: list[Any], sent: AsyncGenerator[Any] | None
) -> AsyncGenerator[Callable[..., Awaitable[Any]]]:
    """Connect, and yield the function that makes the request: to the server, or through the server to a peer."""
    if peer is None:
        retries: Any = {}
        if options.retry and sent is None:
            retries = {"retry": Retry(attempts=options.retry + 1, initial=FIRST_DELAY)}
        async with connected(options, job) as client:
            request = on_channel(client, options.channel).request
            yield partial(request, options.event, *args, send=sent, **retries)
        return
    if sent is not None:
        raise UsageError("--peer passes on no uploads: give the items as an argument")
    from .operating import operations  # here, because it imports modules that most calls do not need

    try:
        async with operations(options, job) as through:
            yield partial(through.call, peer, options.channel, options.event, args)
    except UnexpectedChannel as exc:
        text = f"{options.event} responds with a stream, and --peer passes on only values"
        raise Failure(text, REMOTE) from exc


def _sent_along(options: Options) -> dict[str, Any]:
    """Return the options of an event or a request that its handler can read."""
    return {"metadata": dict(options.metadata)} if options.metadata else {}


def _arguments(options: Options, job: Job) -> tuple[list[Any], AsyncGenerator[Any] | None]:
    """Return the values of the arguments, and the items to upload."""
    _check_event(options)
    from_stdin = options.args.count("-")
    if from_stdin + (options.send is not None) > 1:
        raise UsageError("a request has one upload: give - once for stdin, or --send FILE")
    args = [argument(text) for text in options.args if text != "-"]
    path = "-" if from_stdin else options.send
    if path is None:
        return args, None
    progress = ItemCount(job, f"the upload to {options.event} was cancelled")
    return args, items_of(path, options.form).read(progress.add)


def _check_event(options: Options) -> None:
    """Raise an error for the name of an event that cannot be sent."""
    check_event(options.event)
    if options.channel is None and options.event in RESERVED_EVENTS:
        raise ReservedEvent(options.event)
