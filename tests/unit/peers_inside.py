"""The inside of peers, for tests that assert what users do not see."""

from __future__ import annotations

from wsrpc import Peer
from wsrpc._api.peer import core_of
from wsrpc._sending.link import Link
from wsrpc._sending.slow_readers import SlowReaderQueue


def link_of(peer: Peer) -> Link:
    """The connection of a peer that has one."""
    link = core_of(peer).link
    assert link is not None
    return link


def slow_reader_of(peer: Peer) -> SlowReaderQueue:
    """The broadcasts that wait for a peer which reads too slowly."""
    queue = link_of(peer).slow_reader
    assert queue is not None
    return queue
