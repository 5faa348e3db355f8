"""Celery tasks that call a wsrpc server, and push to its clients: ``celery -A tasks worker``, see README.md."""

from __future__ import annotations

from typing import Any

from celery import Celery
from celery.signals import worker_process_shutdown, worker_shutdown
from shop_settings import BACKEND, BROKER, NAME, SERVER, engine, store

from wsrpc import Retry
from wsrpc.blocking import Client, ClusterClient
from wsrpc.errors import PeerNotFound

app = Celery("tasks", broker=BROKER, backend=BACKEND)

# One connection of each for each worker process. They are made here, before Celery forks, and used only after that.
client = Client(f"{SERVER}?user=celery", connect_timeout=10)
shop = ClusterClient(engine(), name=NAME, store=store())


@app.task
def price(article: str, count: int) -> float:
    """Ask the server."""
    if not client.connected:
        client.connect()
    return client.request("price", article, count, returns=float, timeout=5, retry=Retry())


@app.task
def announce(text: str) -> int:
    """Tell everyone in the lobby, at whichever process of the cluster they are."""
    shop.connect()  # the first task of each process joins the cluster
    return len(shop.room("lobby").emit("news", text).nodes)


@app.task(bind=True, max_retries=3, default_retry_delay=60)
def ask(self: Any, user: str, question: str) -> str:
    """Ask one user, and again later if they are away."""
    shop.connect()
    try:
        return shop.peer(f"user/{user}").request("ask", question, returns=str, timeout=30)
    except PeerNotFound as exc:
        raise self.retry(exc=exc) from exc


@app.task(bind=True, acks_late=True, reject_on_worker_lost=True)
def remind(self: Any, user: str, text: str) -> None:
    """Remind one user once, as soon as they are there within a day. No worker waits for that."""
    shop.connect()
    shop.peer(f"user/{user}").submit("remind", text, key=self.request.id, deliver_within=24 * 3600)


@worker_process_shutdown.connect
@worker_shutdown.connect
def close(**_: object) -> None:
    client.close()
    shop.close()
