"""One side of a channel or a stream, brought to where the test, which plays the other side, takes over."""

from __future__ import annotations

from typing import Any

from core_driver import Driven, start
from stream_driver import Both, emptied, welcome
from waiting import settled

from wsrpc import AnonymousChannel, Context, Limits, Stream


async def requested(d: Driven, *with_it: Any) -> AnonymousChannel:
    """A channel that ``d`` asked for; ``with_it`` arrives in the same read as its creation (``{h}`` is filled in)."""
    task = start(d.peer.open_channel("c"))
    await settled()
    i = d.take()[-1]["i"]
    d.feed({"i": i, "h": 1}, *({**message, "h": i} for message in with_it))
    await settled()
    channel: AnonymousChannel = task.result()
    assert channel.id == i
    return channel


async def opened(both: Both) -> tuple[AnonymousChannel, AnonymousChannel]:
    """A channel, as the requestor and as the handler has it."""
    left, right = both
    made: list[AnonymousChannel] = []

    def handler(ctx: Context) -> AnonymousChannel:
        made.append(ctx.channel())
        return made[0]

    right.on("open_it", handler)
    channel = await left.open_channel("open_it")
    return channel, made[0]


async def chat(room: str, channel: AnonymousChannel) -> None:
    """A handler that answers each line in capitals until one says bye."""
    channel.on("room", lambda: room)
    async for line in channel.events("line", returns=str):
        if line == "bye":
            return
        await channel.emit("line", line.upper())


async def serving(handler: Any, h: int = 5, *middleware: Any) -> Driven:
    """A peer with a stream, or whatever ``handler`` opens, on channel ``h``. The other side is plain."""
    d = Driven()
    d.peer.on("s", handler)
    for each in middleware:
        d.peer.use(each)
    assert await d.fed({"i": h, "a": ["s"]}) == [{"i": h, "h": 1}]
    return d


async def reading(limits: Limits | None = None, **options: Any) -> tuple[Driven, Stream[Any], int]:
    """A peer that reads a stream, the stream, and its channel's id. The other side is plain."""
    d = Driven(dialer=True, limits=limits)
    return d, *await entered(d, **options)


async def over(d: Driven) -> None:
    """The other side aborts channel 5, and nothing is left."""
    await d.fed({"h": 5, "x": "bye"})
    await emptied(d.peer)
    d.assert_empty()


WINDOW_BYTES = Limits().stream_window_bytes


async def consuming(limits: Limits | None = None) -> tuple[Driven, Stream[Any], int]:
    """A peer that has asked for a stream, entered it, and the channel's id."""
    d = Driven(dialer=True, extensions=True, limits=limits)
    await d.fed(welcome("batches", "credit"))
    return d, *await entered(d)


async def entered(d: Driven, **options: Any) -> tuple[Stream[Any], int]:
    """A stream that the peer has asked for and entered, and the channel's id."""
    stream = d.peer.stream("s", **options)
    entering = start(stream.__aenter__())
    await settled()
    i = d.take()[-1]["i"]
    d.feed({"i": i, "h": 1})
    await entering
    return stream, i


def granted(sent: list[Any], h: int) -> list[tuple[int, int]]:
    """What was granted among ``sent``, which must be nothing else."""
    controls = [message["wsrpc"] for message in sent]
    assert all(c.keys() == {"t", "h", "n", "bytes"} and (c["t"], c["h"]) == ("credit", h) for c in controls)
    return [(c["n"], c["bytes"]) for c in controls]
