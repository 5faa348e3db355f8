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
"""Prefix of a subprotocol that contains a token. In browsers, a WebSocket can send a token in no other header."""

HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
"""Regular expression that matches a valid header value (RFC 9110, sections 5.1 and 5.5)."""


class Handshake:
    """Opening handshake of a client, before the server responds. The `Server.on_handshake` function gets this object.

    The function reads the request and sets the response. Behind a trusted proxy, ``remote``, ``secure`` and ``host``
    are the values that the proxy reports.

    Attributes:
        path: the path of the request, without the query.
        query: the parameters of the query. If a name is repeated, the last value counts.
        headers: the headers of the request, with names in lower case. The values of a repeated header are joined with
            commas. Each character of a value is one byte (Latin-1).
        origin: the ``Origin`` header, which browsers send, or None.
        host: the host that the client connected to, with the port if the client sent one.
        remote: the address and port of the client. None if they are unknown, for example over a Unix socket.
        local: the address and port of the server, or None.
        secure: whether the connection uses TLS.
        subprotocols: the subprotocols that the client offers, in its order of preference.
        response_headers: headers to add to the response. They cannot replace the headers of the WebSocket handshake
            itself. The response has no ``Server`` header unless you set it.
        limits: the limits of this connection. To change them, set this attribute, for example to
            ``handshake.limits.replace(message=4096)``.
        compression: whether to use permessage-deflate if the client offers it.
        state: the initial `Peer.state`.
        principal: the identity of the client, which becomes `Peer.principal`.
        address: the application's name for the client, which becomes `Peer.address`. With this name, `Cluster.peer`
            finds the client in any process. If part of the address identifies the user, derive that part from the
            client's credentials. In a cluster, only one client at a time can have a given address. When another client
            gets the same address, the connection of the older client is closed with 4410. When a session resumes, the
            address from the new handshake replaces the old one.
        expires: the time when the client's credentials expire, in seconds since the epoch (like ``exp`` of a JWT), or
            None. At this time, the connection is closed with 4411. A wsrpc client then connects again with fresh
            credentials, and its session resumes.
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
        """Create a `Handshake` from a request. For adapters.

        Args:
            target: the path and query of the request.
            remote: the address and port of the client.
            local: the address and port of the server.
            subprotocols: the offered subprotocols. By default, they are read from the headers.
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
        """The token from ``Authorization: Bearer``, ``?access_token=`` or a subprotocol ``bearer.<token>``, or None."""
        scheme, _, token = self.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and token.strip():
            return token.strip()
        if self.query.get("access_token"):
            return self.query["access_token"]
        return next((name[len(BEARER) :] for name in self.subprotocols if name.startswith(BEARER)), None) or None

    @property
    def subprotocol(self) -> str | None:
        """The chosen subprotocol, or None for no subprotocol. Set it to one of the subprotocols that the client offers.

        Raises:
            ValueError: the client does not offer the subprotocol that you set.
        """
        return self._subprotocol

    @subprotocol.setter
    def subprotocol(self, name: str | None) -> None:
        if name is not None and name not in self.subprotocols:
            shown = [f"{BEARER}…" if offered.startswith(BEARER) else offered for offered in self.subprotocols]
            raise ValueError(f"the client offers the subprotocols {shown}, not {name!r}")
        self._subprotocol = name

    def reject(self, status: int, body: str = "", headers: Mapping[str, str] | None = None) -> NoReturn:
        """Refuse the connection with an HTTP response: a status from 400 to 599, a body, and headers.

        Raises:
            HandshakeRejected: always. If you raise this exception yourself, the effect is the same.
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
"""A function for `Server.on_handshake`, sync or async."""


def check_header(name: object, value: object) -> None:
    """Check that a header can be sent. Error messages do not include the value, because it may be a secret.

    Raises:
        TypeError, ValueError: the header cannot be sent. The error message says why.
    """
    if not isinstance(name, str) or not HEADER_NAME.fullmatch(name):
        raise ValueError(f"the name of a header is a word such as 'X-Served-By', got {name!r}")
    if not isinstance(value, str):
        raise TypeError(f"the header {name!r} must be text, got {type(value).__name__}")
    if not HEADER_VALUE.fullmatch(value):
        raise ValueError(f"the header {name!r} has a character that cannot be sent, such as a line break")
