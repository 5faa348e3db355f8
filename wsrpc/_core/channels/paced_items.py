"""Paced items: each item is a request, and the next item waits for its answer. With credit, items are events instead.

JavaScript's own iterator (``for await``) holds one item, and fails when a third item arrives before the loop reads
(ws-wrapper 4.3.1, observed). A loop with a slow body still overflows, because the iterator answers at once. An async
listener of ``next`` answers when it has handled the item. Items on named channels, which have no credit, are always
paced.
"""

from __future__ import annotations

from ...errors import WsrpcError
from ..wire.messages import RequestOptions

ITEM_REQUEST = RequestOptions(timeout=None, within_call=True)
"""Options of an item that is sent as a request. The consumer may take its time before it answers."""


class ItemRefused(Exception):
    """The consumer wants no more items: it has rejected an item. On a named channel, it may also have sent ``start``
    again, or the connection is lost."""

    def __init__(self, error: WsrpcError) -> None:
        super().__init__(str(error))
        self.error = error
