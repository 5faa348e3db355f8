"""What a client can dial."""

from __future__ import annotations

__all__ = ["BadURL", "check_url"]


class BadURL(ValueError):
    """A URL to which no attempt can succeed."""


def check_url(url: object, *, tls: bool) -> None:
    """Refuse at once what cannot be dialed; ``tls`` says that there is a TLS context.

    Raises:
        ValueError: says what a URL looks like.
    """
    if not isinstance(url, str) or not url.startswith(("ws://", "wss://")):
        raise BadURL(f"a URL begins with ws:// or wss:// and names a host, got {url!r}")
    if tls and url.startswith("ws://"):
        raise BadURL(f"ssl= goes with a wss:// URL, got {url!r}")
