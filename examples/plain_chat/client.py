"""A chat client: `python client.py NAME`. Each line that you type is sent to all others. Ctrl-D ends the client."""

import sys

from wsrpc.blocking import Client

with Client("ws://127.0.0.1:8080") as client:
    client.on("said", print)
    print("people here:", client.request("join", sys.argv[1]))
    for line in sys.stdin:
        client.request("say", line.strip())
