"""The server of a shop, whose clients Celery tasks push to: ``python shop_server.py``, see README.md."""

from __future__ import annotations

from shop_settings import NAME, PORT, engine, store

from wsrpc import Handshake, Peer, Server
from wsrpc.cluster import Cluster

server = Server(cluster=Cluster(engine(), name=NAME), store=store())


@server.on_handshake
def on_handshake(handshake: Handshake) -> None:
    handshake.address = f"user/{handshake.query.get('user', 'nobody')}"  # a real one looks at a token


@server.on("open")
def opened(peer: Peer) -> None:
    server.room("lobby").add(peer)


@server.on("price")
def price(article: str, count: int = 1) -> float:
    return {"tea": 2.5, "cake": 4.0}[article] * count


if __name__ == "__main__":
    server.run("127.0.0.1", PORT)
