"""`SubmittedCall`, what has become of a call that was submitted, and what waits: `WaitingCall` and `WaitingCalls`."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct


class SubmittedCall(Struct, frozen=True):
    """State of a call that waits for a peer, at one moment. `ClusterPeer.submitted` returns it.

    Attributes:
        state: ``"waiting"``: the call was not handed over, and can be withdrawn. ``"running"``: a process has begun to
            hand it over, so its handler may have run, also if the peer is away again. ``"done"`` and ``"failed"``: the
            call has ended. ``"expired"``: the peer has not connected in time, so the call was not handed over.
            ``"withdrawn"``: the call was withdrawn, and is never handed over. ``"unknown"``: the store
            has no such call, because it was not submitted, or is no longer kept.
        value: the response, if the state is ``"done"``. Otherwise None.
        error: why the call has failed, if the state is ``"failed"`` or ``"expired"``. Otherwise None.
    """

    state: Literal["waiting", "running", "done", "failed", "expired", "withdrawn", "unknown"]
    value: Any = None
    error: Exception | None = None


class WaitingCall(Struct, frozen=True):
    """A call to a peer that has not ended. `ClusterPeer.waiting` returns some.

    Attributes:
        event: the name of the event.
        args: the arguments.
        key: the key.
        channel: the name of the channel, or None.
        since: when the call began, in seconds since the epoch.
        until: when the call has to be handed over. Afterwards, it fails if it still waits.
        state: as for `SubmittedCall`.
    """

    event: str
    args: list[Any]
    key: str
    channel: str | None
    since: float
    until: float
    state: Literal["waiting", "running"]


class WaitingCalls(Struct, frozen=True):
    """The calls to one address that have not ended. `Cluster.waiting` yields these.

    Attributes:
        address: the address.
        count: their number.
        since: when the oldest began, in seconds since the epoch.
    """

    address: str
    count: int
    since: float
