"""One attempt to connect."""

from __future__ import annotations

import asyncio
import inspect
import ssl as ssl_module
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

from ._url import check_url
from .limits import Limits
from .websocket import WebSocketTransport, dial

__all__ = ["Dialer", "PerAttempt"]

T = TypeVar("T")
PerAttempt: TypeAlias = T | Callable[[], T] | Callable[[], Awaitable[T]]
"""A value, or a function (sync or async) that is asked for it at each attempt to connect."""


class Dialer:
    """What a client dials with; calling it makes one attempt, in which it asks each option that is a function.

    Raises what they raise, and what `dial` does.
    """

    def __init__(
        self,
        url: PerAttempt[str],
        *,
        headers: PerAttempt[Mapping[str, str]] | None,
        auth: PerAttempt[str] | None,
        subprotocols: Sequence[str] | None,
        ssl: ssl_module.SSLContext | None,
        proxy: str | bool | None,
        limits: Limits,
    ) -> None:
        if isinstance(url, str):
            check_url(url, tls=ssl is not None)
        elif not callable(url):
            raise TypeError(f"a url is text, or a function that returns it, got {url!r}")
        self._options = (url, headers, auth)
        self._subprotocols = subprotocols
        self._ssl = ssl
        self._proxy = proxy
        self._limits = limits

    async def __call__(self) -> WebSocketTransport:
        url, given, token = [await _evaluate(option) for option in self._options]
        headers = dict(given or {})
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        return await dial(
            url,
            limits=self._limits,
            headers=headers,
            subprotocols=self._subprotocols,
            ssl=self._ssl,
            proxy=self._proxy,
        )


async def _evaluate(given: Any) -> Any:
    value = given() if callable(given) else given
    try:
        return await value if inspect.isawaitable(value) else value
    except asyncio.CancelledError as exc:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        # Something inside was cancelled, not the dialing: an attempt that failed.
        raise RuntimeError(f"{given!r} was cancelled") from exc
