"""A person in the chat: each line that you type is sent to all others, until Ctrl-D."""

import sys

from wsrpc.blocking import Client

with Client("ws://127.0.0.1:8080") as client:
    client.on("said", print)
    print("people here:", client.request("join", sys.argv[1]))
    for line in sys.stdin:
        client.request("say", line.strip())
