"""picows: a fast transport, for servers and clients. It needs the extra ``picows``.

    async with wsrpc_adapters.picows.listen(server, "127.0.0.1", 8080, path="/ws") as listener: ...
    client = Client("ws://127.0.0.1:8080/ws", dial=wsrpc_adapters.picows.dial)

It differs from the default transport in three ways: `on_handshake` cannot be async, nothing is compressed, and
`on_handshake` can lower `Limits.message_bytes`, but not raise it. See docs/how-to/picows.md.
"""

from __future__ import annotations

try:
    from ._picows_dial import dial
    from ._picows_listen import listen
except ModuleNotFoundError as exc:
    if exc.name != "picows":
        raise
    raise ModuleNotFoundError("this adapter needs picows: pip install 'python-wsrpc[picows]'", name="picows") from exc

__all__ = ["dial", "listen"]
