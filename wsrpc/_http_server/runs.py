"""Calls, and runs: a handler that goes on without a reader, and whose items have a URL."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from typing import Any, Literal, NamedTuple

import msgspec

from .._client.client import Client
from .._core.api.stream import Stream
from ..errors import ConnectionLost, HandshakeRejected, ItemsGone, WsrpcError
from .answers import COMMENT, CUT, LARGEST_RESPONSE, encode, error_of, event_of, failure, json_response
from .requests import HttpResponse
from .routed_request import PULSE, RoutedRequest, event_stream, with_pauses

LONGEST_GAP = 0.1
"""Seconds without an item after which a response that does not wait ends."""
LONG_POLL = 20.0
"""Seconds for which a client of Durable Streams waits for an item."""
PAST_ALL_ITEMS: int = 2**53 - 1
"""A position that no run reaches: the largest one."""
END_ID = "end"
"""The id of the last event of a run. A browser sends it when it connects again, and then stops."""


async def call(request: RoutedRequest) -> HttpResponse:
    async with request.connect() as client:
        return json_response(200, await request_result(request, client))


async def request_result(request: RoutedRequest, client: Client) -> Any:
    with not_sendable():
        return await request.on(client).request(request.event, *request.args, **request.options)


@contextmanager
def not_sendable() -> Generator[None]:
    """Refuse what cannot be sent."""
    try:
        yield
    except (TypeError, ValueError, OverflowError, RecursionError) as exc:
        raise HandshakeRejected(400, f"the call is not valid\n{exc}") from None


def stream(request: RoutedRequest, client: Client, after: str | int | None) -> Stream[Any]:
    """Return the stream of the items of a run. Without a position, it starts the run."""
    with not_sendable():
        found: Stream[Any] = request.on(client).stream(request.event, *request.args, **request.options, after=after)
        return found


async def start_run(request: RoutedRequest) -> HttpResponse:
    if request.after or not request.is_for_value:
        return await read_run(request)  # it starts the run, unless it has a position
    async with request.connect() as client:
        value = asyncio.ensure_future(request_result(request, client))
        try:
            await asyncio.wait((value,), timeout=None if request.wait is None else max(request.wait, LONGEST_GAP))
            while not value.done():
                with suppress(ItemsGone):
                    async with stream(request, client, 0):
                        return json_response(202, {"state": "running", "items": [], "position": "0"})
                await asyncio.wait((value,), timeout=LONGEST_GAP)  # until it has started
            return json_response(200, {"state": "ended", "items": [value.result()], "position": "1"})
        finally:
            value.cancel()
            await asyncio.wait((value,))


async def read_run(request: RoutedRequest) -> HttpResponse:
    if request.after == END_ID:
        return HttpResponse(204, [])
    if not request.posted and "offset" in request.query:
        return await read_durable(request)
    if request.wait is not None:
        return await run_so_far(request, request.wait)
    return await event_stream(request, run_events(request))


@asynccontextmanager
async def open_items(request: RoutedRequest) -> AsyncGenerator[Stream[Any]]:
    after = request.after or (None if request.posted else "0")
    async with request.connect() as client, stream(request, client, after) as items:
        yield items


async def run_events(request: RoutedRequest) -> AsyncGenerator[bytes]:
    async with open_items(request) as items:
        yield b""  # it has begun
        yield COMMENT  # so that the headers are sent
        try:
            async with aclosing(with_pauses(request, items, PULSE)) as timed:
                async for found in timed:
                    yield COMMENT if found is None else event_of(encode(found[0]), items.position)
        except OSError:  # the server closes, or the reader has left
            yield CUT
        except ItemsGone as exc:  # a slow reader: the run may go on
            yield event_of(encode(error_of(exc)), None, "missed")
        except WsrpcError as exc:
            yield event_of(encode(error_of(exc)), END_ID, "failed")
        else:
            yield event_of(b"[DONE]", END_ID, END_ID)


class SoFar(NamedTuple):
    """Items of a run."""

    state: Literal["running", "ended", "failed"]
    items: list[msgspec.Raw]
    position: str | None
    complete: bool
    """Whether the run has no others yet."""
    error: WsrpcError | None


async def read_so_far(request: RoutedRequest, wait: float, enough: float = math.inf) -> SoFar:
    """Read the items until the run has ended, the time is over, or there are enough."""
    state: Literal["running", "ended", "failed"] = "running"
    items: list[msgspec.Raw] = []
    size, complete, error = 0, False, None
    time = asyncio.get_running_loop().time
    latest = time() + max(wait, LONGEST_GAP)
    async with open_items(request) as arriving:
        try:
            async with aclosing(with_pauses(request, arriving, LONGEST_GAP)) as timed:
                async for found in timed:
                    if found is not None:
                        items.append(msgspec.Raw(encode(found[0])))
                        size += len(items[-1])
                    complete = found is None
                    if size > LARGEST_RESPONSE or time() >= latest or (complete and len(items) >= enough):
                        break
                else:
                    state, complete = "ended", True
        except (ConnectionLost, ItemsGone):
            if not items:
                raise
            complete = False
        except WsrpcError as exc:
            state, error = "failed", exc
        return SoFar(state, items, arriving.position, complete, error)


async def run_so_far(request: RoutedRequest, wait: float) -> HttpResponse:
    """Respond with the items until the run has ended, or the time is over."""
    found = await read_so_far(request, wait)
    failed = {} if found.error is None else error_of(found.error)
    report = {"state": found.state, **failed, "items": found.items, "position": found.position}
    return json_response(202 if request.posted and found.state == "running" else 200, report)


async def read_durable(request: RoutedRequest) -> HttpResponse:
    """Respond as https://durablestreams.com says, which knows no streams that fail: the read after the last item does.

    Raises:
        HandshakeRejected: the mode is not valid.
    """
    if (live := request.query.get("live")) not in (None, "long-poll"):
        raise HandshakeRejected(400, f"live= is long-poll: server-sent events have no ?offset=\ngot {live!r}")
    found = await read_so_far(request, 0.0 if live is None else LONG_POLL, enough=1)
    if found.error is not None and not found.items:
        refused = failure(found.error)
        return refused if refused.status < 500 else refused._replace(status=410)  # it would repeat that
    number, _, id = (found.position or request.after).partition("-")
    offset = f"{number:0>16}-{id}" if id else "0"  # texts in the order of the items
    headers = [("stream-next-offset", offset), ("stream-cursor", "0"), ("etag", f'"{request.after}:{offset}"')]
    headers.append(("access-control-expose-headers", "stream-next-offset, stream-up-to-date, stream-closed"))
    if found.complete and found.error is None:
        headers.append(("stream-up-to-date", "true"))
        if found.state == "ended":
            headers.append(("stream-closed", "true"))
    if not found.items and live is not None:
        return HttpResponse(204, headers)
    return json_response(200, found.items, headers)


async def send_to_run(request: RoutedRequest) -> HttpResponse:
    """Respond when the handler has read the message."""
    timeout = request.options.pop("timeout", None)
    async with request.connect() as client:
        with not_sendable():
            await stream(request, client, None).send(request.message, id=request.message_id, timeout=timeout)
    return HttpResponse(204, [])


async def stop_run(request: RoutedRequest) -> HttpResponse:
    async with request.connect() as client:
        try:
            # Of items that are kept no more, none is asked for: a run may drop items faster than it is asked for them.
            async with stream(request, client, PAST_ALL_ITEMS) as items:
                await items.stop()
        except ItemsGone as exc:
            if exc.first is None:
                raise
            # Otherwise the run has ended: it has no later items.
    return HttpResponse(204, [])
