"""`SubmittedCall`: what has become of a call that was submitted."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct


class SubmittedCall(Struct, frozen=True):
    """State of a call that waits for a peer, at one moment. `ClusterPeer.submitted` returns it.

    Attributes:
        state: ``"waiting"``: the peer is away, or the process that was to make the call has ended. ``"running"``: the
            peer is connected, or its session waits for its next connection, and a process makes the call. ``"done"``
            and ``"failed"``: the call has ended. ``"unknown"``: the store has no such call, because it was not
            submitted, or is no longer kept.
        value: the response, if the state is ``"done"``. Otherwise None.
        error: why the call has failed, if the state is ``"failed"``. Otherwise None.
    """

    state: Literal["waiting", "running", "done", "failed", "unknown"]
    value: Any = None
    error: Exception | None = None
