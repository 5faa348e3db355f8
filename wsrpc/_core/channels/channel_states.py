"""The states of an anonymous channel and of its mailbox, as data."""

from __future__ import annotations

from enum import Enum


class ChannelState(Enum):
    """State of an anonymous channel on one side."""

    __hash__ = object.__hash__  # the hash of Enum is a Python function, and each channel reads the tables

    NEW = "new"
    """A handler has made the channel. The remote peer does not know of it yet."""
    OPEN = "open"
    ENDED = "ended"
    """The remote peer has ended the channel, or the session is over. Earlier messages are still delivered."""
    ENDED_HERE = "ended here"
    """This side has ended the channel. The remote peer may have ended it before."""


class ChannelInput(Enum):
    """Input of the table of a channel's states."""

    __hash__ = object.__hash__

    OPENED = "the request is answered with the channel"
    ENDED = "the remote peer ends it, or the session is over"
    ENDED_HERE = "this side ends it"


_END = "notifies the producer and the handler, fails requests sent on it"
TABLE: dict[ChannelState, dict[ChannelInput, tuple[ChannelState, str]]] = {
    ChannelState.NEW: {
        ChannelInput.OPENED: (ChannelState.OPEN, "lets both sides send"),
        ChannelInput.ENDED: (ChannelState.ENDED, _END),
        ChannelInput.ENDED_HERE: (ChannelState.ENDED_HERE, f"{_END}, closes the mailbox"),
    },
    ChannelState.OPEN: {
        ChannelInput.ENDED: (ChannelState.ENDED, f"{_END}, ends the mailbox"),
        ChannelInput.ENDED_HERE: (ChannelState.ENDED_HERE, f"{_END}, closes the mailbox"),
    },
    ChannelState.ENDED: {
        ChannelInput.ENDED_HERE: (ChannelState.ENDED_HERE, "closes the mailbox"),
    },
    ChannelState.ENDED_HERE: {
        ChannelInput.ENDED: (ChannelState.ENDED_HERE, "nothing"),
        ChannelInput.ENDED_HERE: (ChannelState.ENDED_HERE, "nothing"),
    },
}
"""The states of an anonymous channel, as data. An input without a cell cannot happen.

`docs/contributing/state-tables.md` shows this table, and `MAILBOX`.
"""


class MailboxState(Enum):
    """State of the delivery of a channel's messages."""

    __hash__ = object.__hash__

    KEEPING = "keeping"
    """Nothing listens yet, so messages are kept for the first recipient or handler."""
    DUE = "due"
    """A recipient or handler listens. It gets the kept messages in the next turn of the event loop."""
    LIVE = "live"
    """Messages are delivered at once."""
    LATE = "late"
    """The channel has ended, and nothing has listened. The messages are still kept."""
    LAST = "last"
    """The channel has ended. A recipient or handler listens, and gets the kept messages in the next turn."""
    OVER = "over"
    """All messages were delivered or dropped."""


class MailboxInput(Enum):
    """Input of the table of a mailbox's states."""

    __hash__ = object.__hash__

    LISTENED = "a recipient or handler is added, or this side sends without listening"
    DELIVERED = "the kept messages are delivered"
    ENDED = "the channel ends, and this side has not ended it"
    CLOSED = "this side ends the channel, or nothing will listen any more"


_DELIVERS = "delivers the kept messages in the next turn"
_OVER = "notifies the recipients that nothing more arrives"
_CLOSES = f"delivers the kept messages to readers, drops the others, {_OVER}"
MAILBOX: dict[MailboxState, dict[MailboxInput, tuple[MailboxState, str]]] = {
    MailboxState.KEEPING: {
        MailboxInput.LISTENED: (MailboxState.DUE, f"{_DELIVERS}, or at once if there are none"),
        MailboxInput.ENDED: (MailboxState.LATE, "nothing"),
        MailboxInput.CLOSED: (MailboxState.OVER, _CLOSES),
    },
    MailboxState.DUE: {
        MailboxInput.LISTENED: (MailboxState.DUE, "nothing"),
        MailboxInput.DELIVERED: (MailboxState.LIVE, "nothing"),
        MailboxInput.ENDED: (MailboxState.LAST, "nothing"),
        MailboxInput.CLOSED: (MailboxState.OVER, _CLOSES),
    },
    MailboxState.LIVE: {
        MailboxInput.LISTENED: (MailboxState.LIVE, "nothing"),
        MailboxInput.ENDED: (MailboxState.OVER, _OVER),
        MailboxInput.CLOSED: (MailboxState.OVER, _OVER),
    },
    MailboxState.LATE: {
        MailboxInput.LISTENED: (MailboxState.LAST, _DELIVERS),
        MailboxInput.CLOSED: (MailboxState.OVER, _CLOSES),
    },
    MailboxState.LAST: {
        MailboxInput.LISTENED: (MailboxState.LAST, "nothing"),
        MailboxInput.DELIVERED: (MailboxState.OVER, _OVER),
        MailboxInput.CLOSED: (MailboxState.OVER, _CLOSES),
    },
    MailboxState.OVER: {
        MailboxInput.LISTENED: (MailboxState.OVER, "raises `ChannelClosed`"),
        MailboxInput.CLOSED: (MailboxState.OVER, "nothing"),
    },
}
"""The states of a mailbox, as data."""
