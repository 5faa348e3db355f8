"""examples/celery_tasks: its tasks run in Celery's own worker, with its broker in memory."""

from __future__ import annotations

import sys

from engine_servers import redis_server
from programs import ROOT, listening, printed_by, start

EXAMPLE = ROOT / "examples" / "celery_tasks"
SERVER = "import logging; logging.basicConfig(level=logging.INFO); import shop_server; shop_server.server.run(port=0)"
PROGRAM = """
import tasks
from celery.contrib.testing.worker import start_worker
from wsrpc.blocking import Client
from shop_settings import SERVER

told = []
with Client(f"{SERVER}?user=ada", connect_timeout=60) as ada:
    news = ada.events("news", returns=str)
    ada.on("ask", lambda question: f"{question} Yes.")
    with start_worker(tasks.app, pool="threads", perform_ping_check=False, loglevel="error"):
        print(tasks.price.delay("tea", 3).get(timeout=60))
        print(tasks.announce.delay("Closing at six").get(timeout=60), next(news))
        print(tasks.ask.delay("ada", "Are you there?").get(timeout=60))
        print(tasks.price.delay("cake", 2).get(timeout=60))
tasks.close()  # which the signals of a worker with processes call
print(tasks.client.state)
"""


WORKER = """
import os, signal, tasks

@tasks.app.task(name="process")
def process():
    return os.getpid(), tasks.shop.nodes[0]

tasks.app.worker_main(["worker", "--pool", "prefork", "-c", "1", "--loglevel", "error", "--without-mingle"])
"""

PREFORK = """
import asyncio, os, signal
from functools import partial
import tasks
from shop_settings import SERVER
from wsrpc import Client

async def run(name, *args):
    return await asyncio.to_thread(tasks.app.send_task(name, args).get, timeout=60)

async def main():
    seen = asyncio.Queue()
    device = Client(f"{SERVER}?user=ada", connect_timeout=60)

    @device.on("remind", keep=60)
    async def remind(text):
        await seen.put(text)

    device.on("ask", lambda question: f"{question} Yes.")
    print(await run("tasks.remind", "ada", "Tea at five"))
    pid, node = await run("process")
    os.kill(pid, signal.SIGKILL)
    async with device:
        print(await seen.get())
        print(await run("tasks.ask", "ada", "Are you there?"))
        print(await run("tasks.remind", "ada", "Tea is ready"), await seen.get())
        again, other = await run("process")
        print(again != pid, other != node, (again, other) == tuple(await run("process")), seen.empty())

asyncio.run(main())
"""

GEVENT = """
from gevent import monkey
monkey.patch_all()
from wsrpc.blocking import Client
client = Client("ws://127.0.0.1:9/")
for _ in range(2):
    try:
        client.connect()
    except RuntimeError as error:
        print(error)
client.close()
"""
GREENLETS = (
    "wsrpc.blocking.Client needs a thread, and gevent or eventlet has replaced the threads of this process by "
    "greenlets: do not patch threads, or use another process"
)


async def test_a_process_whose_threads_are_greenlets_is_refused() -> None:
    """A worker of Celery with `-P gevent` blocked, and was told that an event loop ran in its thread."""
    printed = await printed_by(await start(sys.executable, "-c", GEVENT))
    assert printed.splitlines() == [GREENLETS, GREENLETS]


async def test_the_tasks_run_in_celery_s_own_worker() -> None:
    redis = redis_server()
    env = {"REDIS": redis.url, "BROKER": "memory://", "BACKEND": "cache+memory://", "PORT": "0"}
    try:
        async with listening(await start(sys.executable, "-c", SERVER, cwd=EXAMPLE, env=env)) as url:
            worker = await start(sys.executable, "-c", PROGRAM, cwd=EXAMPLE, env={**env, "SERVER": url})
            printed = await printed_by(worker)
        assert printed.splitlines() == ["7.5", "1 Closing at six", "Are you there? Yes.", "8.0", "closed"]
    finally:
        redis.end()


async def test_a_worker_process_of_celery_that_is_killed_loses_no_submitted_call() -> None:
    """Each process of the worker joins the cluster once, and what one has submitted arrives without it."""
    redis = redis_server()
    env = {"REDIS": redis.url, "BROKER": redis.url, "BACKEND": redis.url, "PORT": "0"}
    try:
        async with listening(await start(sys.executable, "-c", SERVER, cwd=EXAMPLE, env=env)) as url:
            env |= {"SERVER": url}
            worker = await start(sys.executable, "-c", WORKER, cwd=EXAMPLE, env=env)
            try:
                printed = await printed_by(await start(sys.executable, "-c", PREFORK, cwd=EXAMPLE, env=env))
            finally:
                worker.terminate()
                await worker.communicate()
        assert printed.splitlines() == [
            "None",
            "Tea at five",
            "Are you there? Yes.",
            "None Tea is ready",
            "True True True True",
        ]
    finally:
        redis.end()
