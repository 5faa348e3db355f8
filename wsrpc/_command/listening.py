"""The command ``listen``, which prints the events that a server emits, and reconnects."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import NamedTuple

import click
import msgspec

from .._base.closing import CloseInfo
from .._base.names import RESERVED_EVENTS
from .._client.reconnect_hooks import ReconnectInfo
from .._client.reconnect_policy import Reconnect, is_transient
from .._core.api.peer import Peer
from .._core.handlers.observation import Message
from ..errors import ConnectionLost, one_line
from .command_connection import client_of, connected
from .command_options import CONNECTION, EVENTS, URL, Command, Options, channel_option, items_option
from .running import Job, ValueWriter, complain, in_event_loop

MOST_UNWRITTEN = 10_000
MOST_UNWRITTEN_BYTES = 16 * 1024 * 1024
"""Maximum number and size of the events that wait for a slow reader of the output. Further events are dropped and
counted. A single event may be larger, up to `Limits.message_bytes`."""


class _Event(NamedTuple):
    time: datetime
    event: str
    message: Message
    """The encoded message. It is decoded only when it is written, because it may then take 70 times as much memory."""


class _Listener:
    """Keeps the chosen events until they are written, and reports drops and reconnects on stderr."""

    def __init__(self, options: Options) -> None:
        self._events = frozenset(options.events)
        """The names of the events to print. Empty for all events."""
        self._channels = frozenset(options.channel)
        self._retries: int = options.retry
        """The remaining attempts to connect the first time. After a drop, the attempts are not limited."""
        self._was_open = False
        self._queue = asyncio.Queue[_Event | Exception]()
        """The events, and then the error after which there is no further connection."""
        self._bytes = 0
        """Bytes of the messages of the events in ``_queue``."""
        self._dropped = 0
        self.client = client = client_of(options, Reconnect(initial=1.0, max=10.0, retry=self._dials_again))
        client.on("message", self._message_received)
        client.on("open", self._opened)
        client.on("close", self._lost)
        client.on("error", self._gave_up)
        client.on_reconnect(self._reconnected)

    async def next(self) -> _Event:
        """Return the next event. Cancelling is safe.

        Raises:
            Exception: all events have been returned, and there is no further connection.
        """
        if self._dropped and not self._bytes:
            complain(f"{self._dropped:,} events were dropped, because the output is read too slowly")
            self._dropped = 0
        found = await self._queue.get()
        if isinstance(found, Exception):
            raise found
        self._bytes -= len(found.message.payload)
        return found

    def _message_received(self, _: Peer, message: Message) -> None:
        event, channel = message.event, message.channel_name
        if event is None or message.id is not None or (channel is None and event in RESERVED_EVENTS):
            return  # ws-server-wrapper 1 sends `connect`, which is not an event of its application
        if (self._events and event not in self._events) or (self._channels and channel not in self._channels):
            return
        size = self._bytes + len(message.payload)
        if self._queue.qsize() >= MOST_UNWRITTEN or (self._bytes and size > MOST_UNWRITTEN_BYTES):
            self._dropped += 1
            return
        self._bytes = size
        self._queue.put_nowait(_Event(datetime.now().astimezone(), event, message))

    def _dials_again(self, error: BaseException) -> bool:
        self._retries -= 1
        return is_transient(error, connected=self._was_open) and (self._was_open or self._retries >= 0)

    def _opened(self) -> None:
        self._was_open = True

    def _lost(self, _: Peer, info: CloseInfo) -> None:
        if info.user_closed:
            return
        if info.will_reconnect:
            complain(f"the connection was lost ({f'{info.code} {info.reason}'.rstrip()}); reconnecting")
        else:
            self._queue.put_nowait(ConnectionLost(info.code, info.reason, "not_sent"))

    def _gave_up(self, _: Peer, error: Exception) -> None:
        self._queue.put_nowait(error)

    def _reconnected(self, info: ReconnectInfo) -> None:
        missed = "nothing was missed" if info.resumed else "events may be missing"
        complain(f"reconnected after {info.downtime:.1f} s; {missed}")


@click.command(
    cls=Command,
    epilog="""\b
examples:
  wsrpc listen ws://localhost:8080
  wsrpc listen ws://localhost:8080 said joined --channel chat | jq .args""",
)
@URL
@EVENTS
@channel_option("Print only the events of this named channel. Can be repeated.", multiple=True)
@CONNECTION
@items_option("events")
@in_event_loop
async def listen(options: Options, job: Job) -> None:
    """Print the events that a server emits, with their time and channel.

    After a drop, the command connects again. With EVENTs, it prints only events of these names.
    """
    listener = _Listener(options)
    output = ValueWriter(job)
    number = 0
    async with connected(options, job, listener.client):
        job.doing = "no event has come"
        while True:
            event = await listener.next()
            await _write(event, output)
            number += 1
            job.doing = f"{number:,} event{' has' if number == 1 else 's have'} come"
            if number == options.take:
                return


async def _write(event: _Event, output: ValueWriter) -> None:
    name, args = event.message.channel_name, event.message.args
    if not output.readable:
        found = {"time": event.time.isoformat(timespec="milliseconds"), "channel": name, "event": event.event}
        await output.value({**found, "args": args})
        return
    time = f"{event.time:%H:%M:%S}.{event.time.microsecond // 1000:03}"
    channel = "" if name is None else f"{one_line(name)}: "
    values = "".join(f" {msgspec.json.encode(value).decode()}" for value in args)
    await output.line(f"{time} {channel}{one_line(event.event)}{values}")
