"""A person in one room: `python client.py /chat/general`, and the server's URL as second argument if it is another.

Each line that you type goes to the others in your room. `/all TEXT` goes to everybody, and `/to ROOM TEXT` to a room.
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
