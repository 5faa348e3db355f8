"""Table of the ways in which a stream ends, and what the reader, the handler and the connection see of each.

docs/contributing/state-tables.md shows it, and `channels/test_stream_ends.py` plays it.
"""

from __future__ import annotations

from typing import NamedTuple

from wsrpc._core.channels.channel_states import ChannelState

HERE, ENDED = ChannelState.ENDED_HERE, ChannelState.ENDED
NOTHING = "nothing"
DONE = '`{h, a: ["next", {done: true}]}` to the reader'
TO_READER = "`{h, x}` to the reader"
TO_HANDLER = "`{h, x}` to the handler's side"
CANCELLED, CLOSED = "`CancelledError`", "`GeneratorExit`"
REMOTE, LOST = "`RemoteError`", "`ConnectionLost`"
OWN = "its error"

AT_YIELD = "the reader leaves while the generator waits at its `yield` for credit"
REJECTS = "JavaScript rejects an item, as it does when it leaves its loop"
BEGINS_LATE = "JavaScript begins its loop later than after `Limits.unread_timeout`"
OVERFLOWS = "JavaScript sends more than `Limits.stream_queue_bytes`"


class StreamEnd(NamedTuple):
    """One way in which a stream ends. None stands for what is not wsrpc's."""

    how: str
    reader: str | None
    """What the reader gets in its ``async for``."""
    handler: str | None
    """What is raised in the generator, where it waits or at its ``yield``."""
    middleware: str | None
    """What is raised in middleware around the handler."""
    wire: str
    """The message that tells of the end."""
    reader_side: ChannelState | None
    """State of the channel on the reader's side, right after the end."""
    handler_side: ChannelState | None


STREAM_ENDS = [
    StreamEnd("the handler returns", "the end of its loop", NOTHING, NOTHING, DONE, HERE, HERE),
    StreamEnd("the handler raises", REMOTE, OWN, OWN, TO_READER, ENDED, HERE),
    StreamEnd("the application cancels the handler's task", REMOTE, CANCELLED, CANCELLED, TO_READER, ENDED, HERE),
    StreamEnd("the reader leaves its `async with` block", NOTHING, CANCELLED, CANCELLED, TO_HANDLER, HERE, ENDED),
    StreamEnd(AT_YIELD, NOTHING, CLOSED, CANCELLED, TO_HANDLER, HERE, ENDED),
    StreamEnd("the reader's block raises", OWN, CANCELLED, CANCELLED, TO_HANDLER, HERE, ENDED),
    StreamEnd("the reader's task is cancelled", CANCELLED, CANCELLED, CANCELLED, TO_HANDLER, HERE, ENDED),
    StreamEnd("Python collects a stream that was not closed", NOTHING, CANCELLED, CANCELLED, TO_HANDLER, HERE, ENDED),
    StreamEnd("either side closes the connection", LOST, CANCELLED, CANCELLED, NOTHING, ENDED, ENDED),
    StreamEnd("a drop ends the session", LOST, CANCELLED, CANCELLED, NOTHING, ENDED, ENDED),
    StreamEnd("JavaScript aborts the channel", None, CANCELLED, CANCELLED, TO_HANDLER, None, ENDED),
    StreamEnd(REJECTS, None, CLOSED, NOTHING, TO_READER, None, HERE),
    StreamEnd("JavaScript sends `stop`", None, CLOSED, NOTHING, DONE, None, HERE),
    StreamEnd(BEGINS_LATE, None, NOTHING, CANCELLED, TO_READER, None, HERE),
    StreamEnd(OVERFLOWS, "`StreamOverflow`", None, None, TO_HANDLER, HERE, None),
]
