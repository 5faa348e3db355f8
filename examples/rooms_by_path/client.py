"""A chat client in one room. The room is the path of the URL.

    python client.py /chat/general [URL]

Each line that you type is sent to the others in the room. `/all TEXT` sends a text to all other clients, and
`/to ROOM TEXT` sends a text to the clients in another room.
"""

from __future__ import annotations

import contextlib
import sys

from wsrpc.blocking import Client


def main(path: str, url: str = "ws://127.0.0.1:8080") -> None:
    with Client(url.rstrip("/") + path) as client:
        client.on("said", print)
        print("you are in", path)
        for line in sys.stdin:
            match line.split(maxsplit=2):
                case ["/all", *words]:
                    heard = client.request("announce", " ".join(words), returns=int)
                case ["/to", room, text]:
                    heard = client.request("whisper", room, text.strip(), returns=int)
                case _:
                    heard = client.request("say", line.strip(), returns=int)
            print(f"({heard} heard it)")


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main(*sys.argv[1:3])
