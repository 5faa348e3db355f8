"""What a client can dial."""

from __future__ import annotations

__all__ = ["BadURL", "check_url"]


class BadURL(ValueError):
    """A URL to which no attempt can succeed."""

    def __init__(self, url: object) -> None:
        super().__init__(url)
        self.url = url

    def __str__(self) -> str:
        return f"a URL begins with ws:// or wss:// and names a host, got {self.url!r}"


def check_url(url: str) -> None:
    """Refuse at once what cannot be dialed.

    Raises:
        ValueError: says what a URL looks like.
    """
    if not url.startswith(("ws://", "wss://")):
        raise BadURL(url)
