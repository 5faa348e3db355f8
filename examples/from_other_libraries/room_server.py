"""The WebSocket handler of kwiscale's documentation in Python: JSON messages, and a room for each URL path.

python room_server.py [PORT]
"""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass

from wsrpc import CloseInfo, Server, Service


@dataclass
class Message:
    """What clients and the server send as JSON."""

    sender: str
    text: str
    to: str = "this room"


class Chat(Service):
    """Serves one client. With `on_message` instead of `on_json`, it would get text; with `serve`, the connection.

    What is no `Message` in JSON closes the connection, as an exception does.
    """

    def on_open(self) -> None:
        self.room = server.room(self.connection.info.path)
        self.room.add(self.connection)

    async def on_json(self, message: Message) -> None:
        if message.to == "all":
            await server.send_json(message)  # SendJSONToAll
        elif message.to.startswith("/"):
            await server.room(message.to).send_json(message)  # SendJSONToRoom
        else:
            await self.room.send_json(message)  # SendJSONToThisRoom
        await self.connection.send_json(Message("server", "sent"))  # SendJSON

    def on_close(self, info: CloseInfo) -> None:
        """Runs once for each client, however its connection ends. It has then left its room."""
        print("a client left", self.connection.info.path, flush=True)


server = Server()
server.add_service(Chat)

if __name__ == "__main__":
    logging.basicConfig(level="INFO")  # shows the address, and each connection
    server.run(port=int(sys.argv[1]) if len(sys.argv) > 1 else 8080)
