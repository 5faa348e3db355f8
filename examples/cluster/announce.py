"""A cron job that tells everybody in the chat something: `python announce.py "Closing at six"`.

With `--ask ada` it asks one user instead, and prints the answer.
"""

from __future__ import annotations

import argparse
import asyncio

from settings import NAME, engine

from wsrpc.cluster import ClusterClient
from wsrpc.errors import PeerNotFound


async def main() -> None:
    parser = argparse.ArgumentParser(description="Tells everybody in the chat something.")
    parser.add_argument("text")
    parser.add_argument("--ask", metavar="USER", help="ask one user, and print the answer")
    options = parser.parse_args()
    async with ClusterClient(engine(), name=NAME) as chat:
        if options.ask is None:
            report = await chat.room("lobby").emit("said", "cron", options.text)
            print(f"sent to {len(report.nodes)} workers; {len(report.missing_nodes)} could not be reached")
            return
        user = chat.peer(f"user/{options.ask}")
        try:
            print(f"{options.ask} answers: {await user.request('whispered', 'cron', options.text, timeout=5)}")
        except PeerNotFound:
            print(f"{options.ask} is not here")


if __name__ == "__main__":
    asyncio.run(main())
