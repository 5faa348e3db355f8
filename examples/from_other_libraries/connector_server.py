"""The README of eyesore/ws in Python: an object with callbacks for each connection, and its settings.

python connector_server.py [PORT]
"""

from __future__ import annotations

import logging
import sys

from wsrpc import CloseInfo, Handshake, Server, Service


class MyConnector(Service):
    """Serves one connection. An exception in `on_open` or `on_message` closes it."""

    def on_open(self) -> None:
        self.messages = 0

    async def on_message(self, message: str | bytes) -> None:
        self.messages += 1
        await self.connection.send(message)  # any number of tasks may send

    def on_close(self, info: CloseInfo) -> None:
        print("closed:", info.was_clean, info.code, info.reason, self.messages, flush=True)


# Pages of other sites may not connect. `origins=ANY_ORIGIN` is AllowAnyOrigin.
server = Server(origins=["https://app.example"], compression=True)
server.add_service(MyConnector)


@server.on_handshake
def on_connect(handshake: Handshake) -> None:
    """Look at the request, before there is a connection or an object for it."""
    if handshake.query.get("token") == "expired":
        handshake.reject(401, "log in again", [("Set-Cookie", "user=; Max-Age=0"), ("Set-Cookie", "id=; Max-Age=0")])
    handshake.subprotocol = next((name for name in ("json", "xml") if name in handshake.subprotocols), None)
    handshake.response_headers["X-Served-By"] = "connector"
    if handshake.query.get("size") == "small":
        # `on_open` can also do this: self.connection.limits = self.connection.limits.replace(message_bytes=1024)
        # But the first message may have arrived by then.
        handshake.limits = handshake.limits.replace(message_bytes=1024)


if __name__ == "__main__":
    logging.basicConfig(level="INFO")  # shows the address, and each connection
    server.run(port=int(sys.argv[1]) if len(sys.argv) > 1 else 8080)
