"""`Quotas`: what one user, or one network address, may do on all its connections together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import msgspec

from .handshake import Handshake
from .limits import Rate, rate_of

By = Literal["principal", "address"] | Callable[[Handshake], str | None]


class Quotas(msgspec.Struct, frozen=True, kw_only=True):
    """Quotas of each user, for all connections of the user together. Pass them as ``Server(quotas=)``.

    The processes of a `Cluster` count ``requests`` and ``bytes`` together: a process learns after about 0.3 s what was
    spent at the others, and meanwhile allows what it has left. Processes that share a ``store`` count ``connections``
    together. All else counts in each process. Raw connections have only ``connections``.

    Attributes:
        by: whose connections count together: ``"principal"`` (those with the same `Handshake.principal`, which must be
            a string or an integer), ``"address"`` (those from the same IP address, or from the same /64 of IPv6), or a
            function of the `Handshake` that returns a text. The quotas do not apply to a connection without a
            principal, without an address (over a Unix socket), or for which the function returns None. This is decided
            at the handshake.
        connections: maximum number of connections. A session that can still resume counts as a connection, and may
            always resume. A further connection is refused with the HTTP status 429, or is closed with 1012 if its
            client has asked to resume a session that has ended. If more than three times as many clients have asked,
            and not said for which session, the first ones are dropped. None: no limit.
        requests: maximum number of requests and events, a `Rate` or a number per second, counted as for `Limits.rate`.
            A client that connects again has what it had left, unless 10,000 others have left since. None: no limit.
        running: maximum number of handlers that run at the same time, counted as for `Limits.running`. While so many
            run, further requests and events are refused. None: no limit.
        bytes: maximum number of bytes that arrive, with the headers of frames: a `Rate`, or a number per second. Above
            it, wsrpc reads nothing from a connection for up to 5 s at a time, so its client sends more slowly. It has
            no effect on URLs, and on WebSockets under ASGI servers, which do not count bytes. None: no limit.
    """

    by: By = "principal"
    connections: int | None = None
    requests: float | Rate | None = None
    running: int | None = None
    bytes: float | Rate | None = None

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            TypeError, ValueError: a value is not valid, or there is no quota.
        """
        by: Any = self.by
        if by not in ("principal", "address") and not callable(by):
            raise ValueError(f"by= is 'principal', 'address' or a function of the handshake, got {by!r}")
        quotas = {name: getattr(self, name) for name in self.__struct_fields__ if name != "by"}
        if all(value is None for value in quotas.values()):
            raise ValueError(f"Quotas() limits nothing: give it one of {', '.join(quotas)}")
        for name, value in quotas.items():
            if value is not None and name in ("requests", "bytes"):
                rate_of(f"{name}=", value)
            elif value is not None and (not isinstance(value, int) or isinstance(value, bool)):
                raise TypeError(f"{name}= is a number, or None for no limit, got {value!r}")
            elif value is not None and value < 1:
                raise ValueError(f"{name}= is at least 1, or None for no limit, got {value!r}")
