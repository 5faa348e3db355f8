"""A participant in the chat of server.py.

    python client.py NAME [URL]

Each line that you type is sent. `/who` lists the participants, and `/quit` ends the conversation.
"""

from __future__ import annotations

import contextlib
import sys
import threading

from wsrpc import ChannelClosed, RemoteError
from wsrpc.blocking import AnonymousChannel, Client


def send_lines(talk: AnonymousChannel) -> None:
    with contextlib.suppress(ChannelClosed):
        for line in sys.stdin:
            if line.strip() == "/who":
                print("here:", *talk.request("who", returns=list[str]), flush=True)
            else:
                talk.emit("say", line.strip())
        talk.close()  # the end of the input


def main(name: str, url: str = "ws://127.0.0.1:8080") -> None:
    with Client(url) as client:
        talk = client.open_channel("join", name)
        heard = talk.events("said", returns=str)
        threading.Thread(target=send_lines, args=[talk], daemon=True).start()
        try:
            for text in heard:  # ends with the channel
                print(text, flush=True)
        except RemoteError as error:
            sys.exit(f"{error} [{error.code}]")


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main(*sys.argv[1:3])
