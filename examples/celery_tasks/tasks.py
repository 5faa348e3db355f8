"""Celery tasks that call a wsrpc server, and push to its clients: ``celery -A tasks worker``, see README.md."""

from __future__ import annotations

from typing import Any

from celery import Celery
from celery.signals import worker_process_shutdown, worker_shutdown
from shop_settings import BACKEND, BROKER, NAME, SERVER, engine

from wsrpc import Retry
from wsrpc.blocking import Client, ClusterClient
from wsrpc.errors import PeerNotFound

app = Celery("tasks", broker=BROKER, backend=BACKEND)

# One connection for each worker process. It is made here, before Celery forks, and used only after that.
client = Client(f"{SERVER}?user=celery", connect_timeout=10)


@app.task
def price(article: str, count: int) -> float:
    """Ask the server."""
    if not client.connected:
        client.connect()
    return client.request("price", article, count, returns=float, timeout=5, retry=Retry())


@app.task
def announce(text: str) -> int:
    """Tell everyone in the lobby, at whichever process of the cluster they are."""
    with ClusterClient(engine(), name=NAME) as shop:
        return len(shop.room("lobby").emit("news", text).nodes)


@app.task(bind=True, max_retries=3, default_retry_delay=60)
def ask(self: Any, user: str, question: str) -> str:
    """Ask one user, and again later if they are away."""
    with ClusterClient(engine(), name=NAME) as shop:
        try:
            return shop.peer(f"user/{user}").request("ask", question, returns=str, timeout=30)
        except PeerNotFound as exc:
            raise self.retry(exc=exc) from exc


@worker_process_shutdown.connect
@worker_shutdown.connect
def close(**_: object) -> None:
    client.close()
