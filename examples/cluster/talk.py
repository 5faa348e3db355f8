"""A client for the terminal: `python talk.py ada`. What you type is said to all; `/ask bob hello` is for Bob alone."""

from __future__ import annotations

import argparse
import asyncio
import secrets
import sys

from wsrpc import Client, RpcError


async def main() -> None:
    parser = argparse.ArgumentParser(description="Talks in the chat.")
    parser.add_argument("name")
    parser.add_argument("--url", default="ws://127.0.0.1:8080/ws")
    options = parser.parse_args()
    # nginx sends connections with the same `client` to the same worker, which has the session.
    client = Client(f"{options.url}?client={secrets.token_hex(8)}", auth=f"secret-{options.name}")
    client.on("entered", lambda who: print(f"{who} is here"))
    client.on("said", lambda who, text: print(f"{who}: {text}"))

    @client.on("whispered")
    def whispered(who: str, text: str) -> str:
        print(f"{who} asks: {text}")
        return f"{options.name} has read it"

    async with client:
        print(f"at worker {await client.request('worker')}, with {', '.join(await client.request('who'))}")
        while line := (await asyncio.to_thread(sys.stdin.readline)):
            command, _, rest = line.strip().partition(" ")
            try:
                if command == "/ask":
                    to, _, text = rest.partition(" ")
                    print(await client.request("whisper", to, text))
                else:
                    await client.request("say", line.strip())
            except RpcError as error:
                print(error.message)


if __name__ == "__main__":
    asyncio.run(main())
