"""`Tokens`: the secrets with which a client proves that a session is its own."""

from __future__ import annotations

import hashlib
import secrets
from hmac import compare_digest

from ..wire.control import Resume

NO_TOKEN = bytes(32)
"""The hash of no token."""


class Tokens:
    """The secrets with which a client proves that a session is its own.

    Only the hashes of the secrets are kept, so that nobody who reads the memory can resume the session.
    """

    __slots__ = ("_gen", "_issued", "_presented")

    def __init__(self, presented: str = "") -> None:
        self._issued, self._presented = NO_TOKEN, _hash(presented) if presented else NO_TOKEN
        """The newest token, and the token that the client has presented last. The client presents that token again if
        the answer was lost."""
        self._gen = 0
        """The highest number of the client's requests to resume."""

    def issue(self) -> str:
        """Return a new token."""
        token = secrets.token_urlsafe(32)
        self._issued = _hash(token)
        return token

    def accepts(self, asked: Resume) -> bool:
        """Return whether a request proves that it is from the client, and is newer than all earlier requests."""
        hashed = _hash(asked.token)
        newest = compare_digest(hashed, self._issued)  # always both, so that the time reveals nothing
        before = compare_digest(hashed, self._presented)
        return (newest or before) and asked.gen > self._gen

    def renew(self, asked: Resume) -> str:
        """Record a request that was accepted. Return a new token."""
        self._gen, self._presented = asked.gen, _hash(asked.token)
        return self.issue()


TOKENS_OF_NO_SESSION = Tokens()
"""Tokens that accept nothing, but take as much time as the tokens of a session."""


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
