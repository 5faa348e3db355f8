"""The requests of this side in a recorded session: by the recording's ``ref`` and by JavaScript's id."""

from __future__ import annotations

from itertools import count
from typing import Any


class OurRequests:
    """``unasked`` are those that JavaScript made and Python does not, ``settled`` those that are over only here."""

    def __init__(self) -> None:
        self.refs: set[str] = set()
        self.unasked: set[str] = set()
        self.settled: set[str] = set()
        self._unseen: list[dict[str, Any]] = []
        """Not on the wire yet."""
        self._ids: dict[str, int] = {}
        self._invented = count(2_000_001)

    def asked(self, operation: dict[str, Any]) -> None:
        self._unseen.append(operation)
        self.refs.add(operation["ref"])

    def not_asked(self, operation: dict[str, Any]) -> None:
        """Python does not make it."""
        self.unasked.add(operation["ref"])
        self._unseen = [request for request in self._unseen if request["ref"] != operation["ref"]]

    def sent(self, frame: dict[str, Any]) -> dict[str, Any] | None:
        """The operation by which a request was made."""
        for request in self._unseen:
            if request["event"] == frame["a"][0]:
                self._unseen.remove(request)
                self._ids[request["ref"]] = frame["i"]
                return request
        return None

    def id_of(self, ref: str) -> int | None:
        return self._ids.get(ref)

    def invent(self) -> int:
        """An id for a request that JavaScript did not make."""
        return next(self._invented)
