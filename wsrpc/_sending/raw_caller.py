"""Sending what is not protocol: the methods that peer and client have in common."""

from __future__ import annotations

from typing import Any

from .._base.names import Offline, check_offline
from .._protocol.messages import Raw
from .caller import Caller
from .checks import check_thread, raw_payload
from .outbound import Outbound

__all__ = ["RawCaller"]


class RawCaller(Caller):
    """What `Caller` has, and `send_raw`, which is on no channel."""

    __slots__ = ()

    _out: Outbound

    def _binary_is_free(self) -> bool:
        """Whether a binary message is not one of the protocol's."""
        raise NotImplementedError

    async def send_raw(self, message: str | bytes, *, offline: Offline | None = None) -> None:
        """Send a message that is not protocol, str as text, bytes as binary, in order with everything else.

        It waits as `emit` does, for room in the line and for a connection, with the same ``offline=``. The other side's
        `on_raw` function gets it, or whatever reads there; if it looks like a protocol message, it is one. Cancelling
        is safe: then it is not sent.

        Raises:
            ConnectionLost: ``outcome="not_sent"``, there is no connection, or the other side is draining, and it may
                not wait for another.
            QueueFull: too much waits for a connection already.
            MessageTooBig: the other side has said that it takes less.
            TypeError: it is neither str nor bytes.
            ValueError: binary, where binary messages are MessagePack, or may be: between two wsrpc peers neither of
                which had an `on_raw` function when they connected. A client without one has to know, from an agreement,
                that it is otherwise; with ``extensions=False`` there is none, and binary messages are free. Or any,
                with ``profile="go"``.
            RuntimeError: in another thread than the event loop's.
        """
        if offline is not None:
            check_offline(offline)
        out, raw = self._out, self._check_raw(message)
        if not (out.clear and out.hand_over(raw)):
            await out.send_in_turn(raw, None, out.fails(offline))

    def send_raw_nowait(self, message: str | bytes, *, offline: Offline | None = None) -> None:
        """Like `send_raw`, for plain functions in the event loop's thread; it never waits.

        Raises:
            QueueFull: at the hard cap of unsent bytes; nothing is sent.
            ConnectionLost, MessageTooBig, TypeError, ValueError, RuntimeError: as for `send_raw`.
        """
        if offline is not None:
            check_offline(offline)
        out, raw = self._out, self._check_raw(message)
        out.check_cap(raw.payload)
        if out.must_queue(raw) or not out.hand_over(raw):
            out.keep(raw, offline)

    def _check_raw(self, message: Any) -> Raw:
        check_thread(self._out.thread, "peer.send_raw(...)")
        self._out.check_raw()
        payload, text = raw_payload(message)
        if not text and not self._binary_is_free():
            raise ValueError(
                "binary messages are MessagePack between two wsrpc peers, unless one of them has an on_raw function "
                "when they connect: send text, or use on_raw here (extensions=False will do, too)"
            )
        return Raw(payload, text)
