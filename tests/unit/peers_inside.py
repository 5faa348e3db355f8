"""The inside of peers, for tests that assert what users do not see."""

from __future__ import annotations

from wsrpc import Peer
from wsrpc._core.api.peer import core_of, current_of
from wsrpc._core.sending.session_writer import SessionWriter
from wsrpc._core.sending.slow_readers import SlowReaderQueue


def out_of(peer: Peer) -> SessionWriter:
    """The sending half of a peer's present session."""
    return current_of(peer).writer


def slow_reader_of(peer: Peer) -> SlowReaderQueue:
    """The broadcasts that wait for a peer which reads too slowly."""
    queue = out_of(peer).slow_reader
    assert queue is not None
    return queue


def unread_at(peer: Peer) -> int:
    """How many bytes of memory unread messages count for, on all channels of a peer."""
    return current_of(peer).channels.unread_memory.used


def reads_nothing(peer: Peer) -> bool:
    """Whether nothing of any reader is left, and messages go the short way again."""
    return not (core_of(peer).named_channels.channels or core_of(peer).admission.needs_checks or unread_at(peer))
