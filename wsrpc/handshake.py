"""`Handshake`: the request for a connection, which a server may still refuse, and the settings of its answer."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NoReturn

from ._base.headers import JoinedHeaders, split_target
from ._base.state import PeerState
from .errors import HandshakeRejected, short
from .limits import Limits
from .transport import ConnectionInfo

__all__ = ["BEARER", "HEADER_VALUE", "Handshake", "HandshakeFunction", "check_header"]

BEARER = "bearer."
"""Prefix of a subprotocol that carries a token: the WebSocket of browsers can send no other header."""

HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
"""The characters that a header may have (RFC 9110, sections 5.1 and 5.5)."""


class Handshake:
    """The opening handshake of a client before it is answered, as `Server.on_handshake` functions get it.

    The function reads the request and sets the response. Behind a trusted proxy ``remote``, ``secure`` and ``host`` are
    those that the proxy reports.

    Attributes:
        path: path of the request, without the query.
        query: parameters of the query. If a name is repeated, the last value counts.
        headers: headers of the request, with names in lower case. A repeated header is joined with commas. Each
            character of a value is one byte (Latin-1).
        origin: origin of a browser's page, or None.
        host: host that the client connected to, with the port if it named one.
        remote: address and port of the client, or None, for instance over a Unix socket.
        local: address and port of the server, or None.
        secure: whether the connection has TLS.
        subprotocols: subprotocols that the client offers, best first.
        response_headers: headers to add to the response, except those of the handshake itself. There is no ``Server``
            header unless you set it.
        limits: limits of this connection; assign ``handshake.limits.replace(message=4096)``, for instance.
        compression: whether permessage-deflate is used if the client offers it.
        state: becomes `Peer.state`.
        principal: identity of the client; becomes `Peer.principal`.
        address: the application's own name for the client; becomes `Peer.address`, by which `Cluster.peer` finds the
            client in any process. Take the part that says who the user is from the client's credentials. In a cluster
            an address belongs to one client: an older one is closed with 4410. When a session resumes, the new value
            replaces the old one.
        expires: when the client's credentials expire, in seconds since the epoch (as the ``exp`` of a JWT), or None.
            The connection is closed then, with 4411: a wsrpc client dials again, with fresh credentials, and its
            session goes on.
    """

    def __init__(
        self,
        target: str,
        headers: Mapping[str, str],
        *,
        remote: tuple[str, int] | None = None,
        local: tuple[str, int] | None = None,
        secure: bool = False,
        subprotocols: Sequence[str] | None = None,
        limits: Limits | None = None,
        compression: bool = False,
    ) -> None:
        """Make the handshake of a request, as an adapter does.

        Args:
            target: path and query of the request.
            remote: address and port of the client.
            local: address and port of the server.
            subprotocols: those of the header by default.
        """
        self.path, self.query = split_target(target)
        self.headers: Mapping[str, str] = headers
        if not isinstance(headers, JoinedHeaders):
            self.headers = MappingProxyType({name.lower(): value for name, value in headers.items()})
        self.origin = self.headers.get("origin")
        self.host = self.headers.get("host", "")
        self.remote = remote
        self.local = local
        self.secure = secure
        if subprotocols is None:
            offered = self.headers.get("sec-websocket-protocol", "").split(",")
            subprotocols = [name.strip() for name in offered if name.strip()]
        self.subprotocols = tuple(subprotocols)
        self.limits = limits or Limits()
        self.compression = compression
        self.response_headers: dict[str, str] = {}
        self.state = PeerState()
        self.principal: object = None
        self.address: str | None = None
        self.expires: float | None = None
        self._subprotocol: str | None = None

    @property
    def bearer_token(self) -> str | None:
        """The token of ``Authorization: Bearer``, or of ``?access_token=``, or of a subprotocol ``bearer.<token>``."""
        scheme, _, token = self.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and token.strip():
            return token.strip()
        if self.query.get("access_token"):
            return self.query["access_token"]
        return next((name[len(BEARER) :] for name in self.subprotocols if name.startswith(BEARER)), None) or None

    @property
    def subprotocol(self) -> str | None:
        """The chosen subprotocol; None for none.

        Raises:
            ValueError: the assigned one was not offered.
        """
        return self._subprotocol

    @subprotocol.setter
    def subprotocol(self, name: str | None) -> None:
        if name is not None and name not in self.subprotocols:
            shown = [f"{BEARER}…" if offered.startswith(BEARER) else offered for offered in self.subprotocols]
            raise ValueError(f"the client offers the subprotocols {shown}, not {name!r}")
        self._subprotocol = name

    def reject(self, status: int, body: str = "", headers: Mapping[str, str] | None = None) -> NoReturn:
        """Refuse the connection, with an HTTP status from 400 to 599, a text and headers of the answer.

        Raises:
            HandshakeRejected: always. Raising it yourself has the same effect.
        """
        raise HandshakeRejected(status, body, headers)

    def connection_info(self, underlying: Any = None, local: tuple[str, int] | None = None) -> ConnectionInfo:
        """Return the `ConnectionInfo` for the transport of this connection."""
        return ConnectionInfo(
            path=self.path,
            query=self.query,
            headers=self.headers,
            origin=self.origin,
            remote=self.remote,
            local=local or self.local,
            subprotocol=self._subprotocol,
            underlying=underlying,
        )

    def __repr__(self) -> str:
        return f"<Handshake {short(self.path)} from {self.remote}>"


HandshakeFunction = Callable[[Handshake], Any]
"""A user's function for `Server.on_handshake`, sync or async."""


def check_header(name: object, value: object) -> None:
    """Refuse a header that cannot be sent. Errors do not quote the value, which may be a secret.

    Raises:
        TypeError, ValueError: the text says what is wrong.
    """
    if not isinstance(name, str) or not HEADER_NAME.fullmatch(name):
        raise ValueError(f"the name of a header is a word such as 'X-Served-By', got {name!r}")
    if not isinstance(value, str):
        raise TypeError(f"the header {name!r} must be text, got {type(value).__name__}")
    if not HEADER_VALUE.fullmatch(value):
        raise ValueError(f"the header {name!r} has a character that cannot be sent, such as a line break")
