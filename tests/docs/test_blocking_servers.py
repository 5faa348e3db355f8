"""docs/how-to/blocking.md: a `ClusterClient` in Flask and Django, under gunicorn, which forks after the import, and
programs that end without `close()`."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from engine_servers import redis_server
from programs import ROOT, listening, printed_by, start

from wsrpc import Client, Server
from wsrpc.cluster import Cluster
from wsrpc_adapters.redis import RedisEngine

EXAMPLE = ROOT / "examples" / "celery_tasks"
SERVER = "import logging; logging.basicConfig(level=logging.INFO); import shop_server; shop_server.server.run(port=0)"
VIEWS = """
import os
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from shop_settings import NAME, engine, store
from wsrpc.blocking import ClusterClient
from wsrpc_adapters.opentelemetry import instrument

spans, provider = InMemorySpanExporter(), TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(spans))
shop = ClusterClient(engine(), name=NAME, store=store())
instrument(shop, tracer_provider=provider)

def ask(text):
    shop.connect()
    return shop.peer("user/ada").request("ask", text, returns=str)

def remind(text):
    shop.connect()
    shop.peer("user/ada").submit("remind", text, key=text, deliver_within=60)
    return "stored"

def join(text):
    shop.connect()
    return "joined"

def process(text):
    return f"{os.getpid()} {shop.nodes[0]} {len(spans.get_finished_spans())}"
"""
FLASK = """
import views
from flask import Flask
app = Flask(__name__)
for view in (views.ask, views.remind, views.join, views.process):
    app.get(f"/{view.__name__}/<text>")(view)
"""
DJANGO = """
import views
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.urls import path

def answers(view):
    return lambda request, text: HttpResponse(view(text))

urlpatterns = [path(f"{view.__name__}/<text>", answers(view)) for view in (views.ask, views.remind, views.process)]
settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="s")
app = get_wsgi_application()
"""


@pytest.mark.parametrize("program", [FLASK, DJANGO], ids=["flask", "django"])
async def test_a_view_calls_submits_and_makes_spans_also_when_its_process_was_killed(
    program: str, tmp_path: Path
) -> None:
    (tmp_path / "views.py").write_text(VIEWS)
    (tmp_path / "site_app.py").write_text(program)
    redis = redis_server()
    env = {"REDIS": redis.url, "PORT": "0"}
    try:
        async with listening(await start(sys.executable, "-c", SERVER, cwd=EXAMPLE, env=env)) as url:
            path = os.pathsep.join([str(ROOT), str(ROOT / "adapters"), str(EXAMPLE), str(tmp_path)])
            words = ["-m", "gunicorn", "--preload", "--threads", "4", "--bind", "127.0.0.1:0", "site_app:app"]
            gunicorn = await start(sys.executable, *words, cwd=tmp_path, env={**env, "PYTHONPATH": path})
            async with listening(gunicorn, r"Listening at: (\S+)", signal.SIGTERM) as site:

                async def get(where: str) -> str:
                    def read() -> str:
                        with urlopen(f"{site}/{where}", timeout=60) as response:
                            return str(response.read().decode())

                    return await asyncio.to_thread(read)

                reminded = asyncio.Queue[str]()
                ada = Client(f"{url}?user=ada", connect_timeout=60)

                @ada.on("remind", keep=60)
                async def remind(text: str) -> None:
                    await reminded.put(text)

                ada.on("ask", lambda text: f"{text}?")
                assert await get("remind/first") == "stored"
                pid, node, _ = (await get("process/-")).split()
                os.kill(int(pid), signal.SIGKILL)
                async with ada:
                    assert await reminded.get() == "first"
                    while True:  # until gunicorn has another process, connections of the last one may break
                        try:
                            asked = await asyncio.gather(*(get(f"ask/{number}") for number in range(20)))
                            break
                        except HTTPError:
                            raise
                        except OSError:
                            continue
                    assert asked == [f"{number}?" for number in range(20)]
                    assert await get("remind/second") == "stored" and await reminded.get() == "second"
                    again, other, spans = (await get("process/-")).split()
                    assert again != pid and other != node and int(spans) >= 21
                    assert (await get("process/-")).split()[1] == other and reminded.empty()
    finally:
        redis.end()


JOINS = """
import multiprocessing, os, sys
from views import join, shop

if __name__ == "__main__":
    {}
"""
CHILD = "child = multiprocessing.get_context('{}').Process(target=join, args='-'); child.start(); child.join()"
ENDS = {
    "a script": "shop.connect()",
    "sys.exit in a forked process": "os.fork() and os.wait() or (shop.connect(), sys.exit())",
    "a client that a function had": "type(shop)(shop._inner._engine, name='shop').connect()",
    **{f"a child, {method}": CHILD.format(method) for method in ("fork", "spawn", "forkserver")},
    "a worker of gunicorn": "",
}


@pytest.mark.parametrize("how", ENDS)
async def test_a_program_that_ends_without_close_leaves_the_cluster(
    how: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The other processes need not notice that it is gone, and lose nothing with it."""
    caplog.set_level(logging.INFO)
    (tmp_path / "views.py").write_text(VIEWS)
    redis = redis_server()
    path = os.pathsep.join([str(ROOT), str(ROOT / "adapters"), str(EXAMPLE), str(tmp_path)])
    env = {"REDIS": redis.url, "PYTHONPATH": path}
    try:
        async with Server(cluster=Cluster(RedisEngine(redis.url), name="shop")).listen():
            if ENDS[how]:
                (tmp_path / "joins.py").write_text(JOINS.format(ENDS[how]))
                assert await printed_by(await start(sys.executable, "joins.py", cwd=tmp_path, env=env)) == ""
            else:
                (tmp_path / "site_app.py").write_text(FLASK)
                words = ["-m", "gunicorn", "--preload", "--bind", "127.0.0.1:0", "site_app:app"]
                gunicorn = await start(sys.executable, *words, cwd=tmp_path, env=env)
                async with listening(gunicorn, r"Listening at: (\S+)", signal.SIGTERM) as site:
                    await asyncio.to_thread(lambda: urlopen(f"{site}/join/-", timeout=60).close())
            while "has left" not in caplog.text:
                assert "has lost" not in caplog.text
                await asyncio.sleep(0.01)
    finally:
        redis.end()
