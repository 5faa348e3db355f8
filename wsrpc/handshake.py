"""`Handshake`: the request for a connection, which a server may still refuse, and the settings of its answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from ._base.logs import address_text
from ._base.request_headers import split_target
from ._base.state import PeerState
from .errors import HandshakeRejected, short
from .headers import Headers, HeadersLike, ResponseHeaders, any_case
from .limits import DEFAULT_LIMITS, Limits
from .transport import ConnectionInfo

BEARER = "bearer."
"""Prefix of a subprotocol that contains a token. In browsers, a WebSocket can send a token in no other header."""
RESUME_HEADER = "Wsrpc-Resume"
"""Header of a request for a connection that will resume a session. Its value is ``1``."""
# Header of a response with which the server itself refuses a connection, and not a proxy. Its value is ``1``.
REFUSED_HEADER = "Wsrpc-Refused"
RESUME_HINT = "wsrpc.resume"
"""Subprotocol that browsers offer in place of `RESUME_HEADER`. It is never shown to applications."""


class Handshake:
    """Opening handshake of a client, before the server responds. The `Server.on_handshake` function gets this object.

    The function reads the request and sets the response. Behind a trusted proxy, ``remote``, ``secure`` and ``host``
    are the values that the proxy reports.

    Attributes:
        target: the path and query of the request, percent-encoded.
        path: the path of the request, decoded, without the query. It can contain any character.
        query: the parameters of the query. If a name is repeated, the last value counts, and ``query.get_all(name)``
            returns all values.
        headers: the headers of the request. Names ignore case; iteration yields them in lower case. The values of a
            repeated header are joined with commas, and ``headers.get_all(name)`` returns each value. Each character of
            a value is one byte (Latin-1).
        origin: the ``Origin`` header, which browsers send, or None.
        names_origin: whether a browser would have sent ``Origin``. The URLs of ``routes`` set it to False for a GET:
            browsers leave the header out if the page is of the same host.
        host: the host that the client connected to, with the port if the client sent one.
        remote: the address and port of the client. None if they are unknown, for example over a Unix socket.
        local: the address and port of the server, or None.
        secure: whether the connection uses TLS.
        certificate: the certificate that the client has proven to own, as a dict in the form of
            `ssl.SSLSocket.getpeercert`, or None. Behind a proxy that terminates TLS, it is the proxy's own
            certificate, or None. Some hosts never set it.
        subprotocols: the subprotocols that the client offers, in its order of preference, without ``wsrpc.resume``,
            with which a web page asks to resume its session.
        asks_to_resume: whether the client wants to resume a session on this connection. Its first message then names
            the session. ``routes`` set it to False, because one request has no session.
        response_headers: headers to add to the response, also to a refusal. Names ignore case. To repeat a header such
            as ``Set-Cookie``, use the method ``add(name, value)``. Values are ASCII. You cannot replace the headers of
            the WebSocket handshake itself.
        limits: the limits of this connection. To change them, set this attribute, for example to
            ``handshake.limits.replace(message_bytes=4096)``. A session resumes only on a connection with equal limits.
        compression: whether to use permessage-deflate if the client offers it.
        state: the initial `Peer.state`. It has no effect on a session that another process of a cluster resumes.
        principal: the identity of the client, which becomes `Peer.principal`. A session resumes only on a connection
            with an equal principal. The log shows it, so never use a token.
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
        certificate: Mapping[str, Any] | None = None,
        subprotocols: Sequence[str] | None = None,
        limits: Limits | None = None,
        compression: bool = False,
    ) -> None:
        """Create a `Handshake` from a request. For adapters.

        Args:
            target: the path and query of the request.
            remote: the address and port of the client.
            local: the address and port of the server.
            certificate: the verified certificate of the client, as ``get_extra_info("peercert")`` of asyncio returns
                it.
            subprotocols: the offered subprotocols. By default, they are read from the headers.
        """
        self.target, self.path, self.query = split_target(target)
        self.headers: Headers = any_case(headers)
        self.origin = self.headers.get("origin")
        self.names_origin = True
        self.host = self.headers.get("host", "")
        self.remote = remote
        self.local = local
        self.secure = secure
        self.certificate = certificate or None  # {} means that the certificate was not verified
        if subprotocols is None:
            offered = self.headers.get("sec-websocket-protocol", "").split(",")
            subprotocols = [name.strip() for name in offered if name.strip()]
        self._hinted = RESUME_HINT in subprotocols
        self.asks_to_resume = self._hinted or self.headers.get(RESUME_HEADER) == "1"
        self.subprotocols = tuple([name for name in subprotocols if name != RESUME_HINT])
        self.limits = limits or DEFAULT_LIMITS
        self.compression = compression
        self.response_headers = ResponseHeaders()
        self.state = PeerState()
        self.principal: object = None
        self.address: str | None = None
        self.expires: float | None = None
        # A browser that offers subprotocols closes the connection if none is chosen. A token is not sent back.
        self._subprotocol = next((name for name in self.subprotocols if not has_token(name)), None)

    @property
    def bearer_token(self) -> str | None:
        """The token from ``Authorization: Bearer``, ``?access_token=`` or a subprotocol ``bearer.<token>``, or None."""
        value: str = self.headers.get("authorization", "")
        scheme, _, token = value.partition(" ")
        if scheme.lower() == "bearer" and token.strip():
            return token.strip()
        if self.query.get("access_token"):
            return self.query["access_token"]
        return next((name[len(BEARER) :] for name in self.subprotocols if name.startswith(BEARER)), None) or None

    @property
    def subprotocol(self) -> str | None:
        """The chosen subprotocol, or None for no subprotocol.

        By default, it is the first subprotocol that the client offers and that does not contain ``bearer.``. You can
        set it to None, or to another subprotocol that the client offers.

        Raises:
            ValueError: the client does not offer the subprotocol that you set.
        """
        return self._subprotocol

    @subprotocol.setter
    def subprotocol(self, name: str | None) -> None:
        if name is not None and name not in self.subprotocols:
            shown = [_without_token(offered) for offered in self.subprotocols]
            raise ValueError(f"the client offers the subprotocols {shown}, not {_without_token(name)!r}")
        self._subprotocol = name

    @property
    def answered_subprotocol(self) -> str | None:
        """The subprotocol of the response: ``subprotocol``, or otherwise ``wsrpc.resume`` if the client offers it.

        Chrome closes a connection if the response chooses none of the offered subprotocols. For adapters.
        """
        return self._subprotocol or (RESUME_HINT if self._hinted else None)

    def reject(self, status: int, body: str = "", headers: HeadersLike | None = None) -> NoReturn:
        """Refuse the connection with an HTTP response: a status from 400 to 599, a body, and headers.

        To repeat a header such as ``Set-Cookie``, pass a list of pairs, each with a name and a value.

        Raises:
            HandshakeRejected: always. If you raise this exception yourself, the effect is the same.
        """
        raise HandshakeRejected(status, body, headers)

    def connection_info(self, underlying: Any = None, local: tuple[str, int] | None = None) -> ConnectionInfo:
        """Return the `ConnectionInfo` for the transport of this connection."""
        return ConnectionInfo(
            target=self.target,
            headers=self.headers,
            origin=self.origin,
            remote=self.remote,
            local=local or self.local,
            subprotocol=self._subprotocol,
            underlying=underlying,
        )

    def __repr__(self) -> str:
        return f"<Handshake {short(self.path)} from {address_text(self.remote) or 'an unknown address'}>"


def has_token(subprotocol: object) -> bool:
    """Return whether a subprotocol may contain a token: some servers expect more text before ``bearer.``."""
    return BEARER in str(subprotocol).lower()


def _without_token(subprotocol: object) -> object:
    return f"{BEARER}…" if has_token(subprotocol) else subprotocol


HandshakeFunction = Callable[[Handshake], Any]
"""A function for `Server.on_handshake`, sync or async."""
