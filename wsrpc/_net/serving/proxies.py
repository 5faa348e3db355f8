"""`TrustedProxies`: reads the headers with which trusted proxies describe their clients."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, NamedTuple

UNIX = "unix"
"""Entry of ``trusted_proxies`` that trusts everything that connects over a Unix socket."""

Address = tuple[str, int] | None

ADDRESS_AND_PORT = re.compile(r"(?:\[([^\]]*)\]|([^:]*))(?::(\d{1,5}))?")
"""An address with or without a port. An IPv6 address is in brackets if it has a port."""
HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~-]+)(?::\d{1,5})?")
ZONE = re.compile(r"[A-Za-z0-9._~-]{1,32}")
"""The name of a network interface, after the % of a link-local address."""
SECURE = {"https": True, "wss": True, "http": False, "ws": False}


class Forwarded(NamedTuple):
    """Facts about a request from trusted proxies. ``secure`` and ``host`` are None if the proxies do not state them."""

    remote: Address
    secure: bool | None
    host: str | None


class TrustedProxies:
    """The proxies whose ``X-Forwarded-For``, ``-Proto`` and ``-Host`` are used.

    Raises:
        TypeError, ValueError: ``trusted`` is not a list of addresses and networks.
    """

    def __init__(self, trusted: Iterable[str]) -> None:
        value: Any = trusted
        if isinstance(value, str):
            raise TypeError(f"trusted_proxies= takes a list of addresses and networks, got text: use [{value!r}]")
        if not isinstance(value, Iterable):
            raise TypeError(f"trusted_proxies= takes a list of addresses and networks, got {value!r}")
        texts = list(trusted)
        self._unix = UNIX in texts
        self._networks = [_network(text) for text in texts if text != UNIX]

    def __bool__(self) -> bool:
        return self._unix or bool(self._networks)

    def trusts(self, remote: Address) -> bool:
        """Whether ``remote`` is a trusted proxy."""
        if remote is None:
            return self._unix
        address = _address(remote[0])
        return address is not None and any(address in network for network in self._networks)

    def client_behind(self, remote: Address, headers: Mapping[str, str]) -> Forwarded | None:
        """Return the facts about the client behind the proxy ``remote``. None if ``remote`` is not a trusted proxy.

        Each proxy appends the address of its client to ``X-Forwarded-For``. So the header is read from the end, past
        the addresses of trusted proxies. The first other address is the client. Everything before it may be forged.
        Reading also stops at anything that is not an address.
        """
        if not self.trusts(remote):
            return None
        client = remote
        for text in reversed(headers.get("x-forwarded-for", "").split(",")):
            entry = _entry(text.strip())
            if entry is None:
                break
            client = entry
            if not self.trusts(entry):
                break
        # The nearest proxy has written or accepted the last value.
        scheme = headers.get("x-forwarded-proto", "").rpartition(",")[2].strip().lower()
        host = headers.get("x-forwarded-host", "").rpartition(",")[2].strip()
        return Forwarded(client, SECURE.get(scheme), host if HOST.fullmatch(host) else None)


def _network(text: Any) -> Any:
    try:
        if not isinstance(text, str):  # ipaddress would read a number as an address
            raise TypeError("it is not text")
        network = ip_network(text)
    except (TypeError, ValueError) as exc:
        raise type(exc)(
            f"trusted_proxies= takes addresses such as '10.0.0.7', networks such as '10.0.0.0/8', and {UNIX!r} for "
            f"Unix sockets; got {text!r}: {exc}"
        ) from None
    if isinstance(network, IPv6Network):
        mapped = network.network_address.ipv4_mapped
        if mapped is not None and network.prefixlen >= 96:
            return ip_network((int(mapped), network.prefixlen - 96))
    return network


def _address(text: str) -> IPv4Address | IPv6Address | None:
    if "%" in text and not ZONE.fullmatch(text.partition("%")[2]):
        return None  # ipaddress accepts any zone, even with escape sequences
    try:
        address = ip_address(text)
    except ValueError:
        return None
    # On a socket for IPv4 and IPv6, an IPv4 address has the form ::ffff:10.0.0.1.
    return getattr(address, "ipv4_mapped", None) or address


def _entry(text: str) -> tuple[str, int] | None:
    """Return the address and port of an entry of ``X-Forwarded-For``. The port is 0 if the entry has none."""
    address, port = _address(text), "0"
    if address is None and (found := ADDRESS_AND_PORT.fullmatch(text)):
        address, port = _address(found[1] or found[2] or ""), found[3] or "0"
    return None if address is None or int(port) > 65535 else (str(address), int(port))
