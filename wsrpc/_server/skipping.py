"""`Skip`: the receivers that a broadcast leaves out."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Any, TypeAlias, TypeVar, cast

from .._core.api.peer import Peer
from .._raw.raw_connection import RawConnection
from .joined_cluster import HasAddress

S = TypeVar("S")

Skip: TypeAlias = Peer | RawConnection | HasAddress | Iterable[Peer | RawConnection | HasAddress] | None
"""Peers that do not get a broadcast: one, or several, such as a list or a room. In a cluster a `ClusterPeer`, too."""


def readable_again(skip: S) -> S | list[Any]:
    """Return ``skip``, or a list of its peers if it is an iterator, which can be read only once."""
    return [*skip] if isinstance(skip, Iterator) else skip


def skipped_by(skip: Skip) -> Collection[object]:
    """Return the peers in ``skip``, and the addresses of `ClusterPeer` objects in ``skip``.

    Raises:
        TypeError: something in ``skip`` is not a peer.
    """
    if skip is None:
        return ()
    if isinstance(skip, (Peer, RawConnection)):
        return (skip,)
    value: Any = skip
    several = (value,) if isinstance(value, HasAddress) else value
    if isinstance(several, Iterable):
        several = tuple(cast("Iterable[object]", several))
        peers = tuple(_peer_or_address(each) for each in several)
        if None not in peers:
            return frozenset(peers)
    raise TypeError(f"skip= takes a peer, a room, or a list of peers that do not get the message; got {value!r}")


def addresses_of(skip: Skip) -> list[str]:
    """Return the addresses of the `ClusterPeer` objects in ``skip``."""
    return [each for each in skipped_by(skip) if isinstance(each, str)]


def _peer_or_address(each: object) -> Peer | RawConnection | str | None:
    return each.address if isinstance(each, HasAddress) else each if isinstance(each, (Peer, RawConnection)) else None
