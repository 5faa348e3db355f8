"""The commands and whole programs of the guides for web frameworks, uvicorn and TLS, as their readers run them."""

from __future__ import annotations

import re
import shlex
import signal
import ssl
import subprocess
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from pages import HOW_TO, commands, python_blocks
from programs import PYTHON, UVICORN_STARTED, free_port, listening, printed_by, start
from test_docs import program_of

from wsrpc import Client, HandshakeRejected, Server


@asynccontextmanager
async def running(command: str, folder: Path) -> AsyncGenerator[str]:
    """Run a command that starts uvicorn on a free port, and give its address; it must stop without a traceback."""
    port = free_port()
    process = await start(PYTHON[0], "-m", *shlex.split(command), "--port", str(port), cwd=folder)
    async with listening(process, UVICORN_STARTED, signal.SIGTERM):
        yield f"ws://127.0.0.1:{port}"


# ---------------------------------------------------------------- programs

BLOCKS = python_blocks("frameworks")
PAGE = "\n".join(BLOCKS)
UVICORN = "uvicorn app:{} --ws wsrpc_adapters.uvicorn:WebSocketProtocol"
SERVES = re.findall(r"`(wsrpc serve [^`]*[\w.]+:\w+)`", (HOW_TO / "frameworks.md").read_text("utf-8"))
[FACTORY] = [each for each in SERVES if "--factory" in each]
ADDS = ("add", 2, 3), 5
STARTED = [
    *((command, BLOCKS[0], "/ws", *ADDS) for name in ("uvicorn", "wsrpc") for command in commands("frameworks", name)),
    (FACTORY, "\n".join(BLOCKS[:2]), "/ws", ("buy", "apples"), 2),
    (f"{UVICORN.format('make_app')} --factory", "\n".join(BLOCKS[:2]), "/ws", ("buy", "apples"), 2),
    *(
        (UVICORN.format(app), PAGE, path, request, answer)
        for app, path, request, answer in (
            ("starlette_app", "/ws", ("add", 2, 3), 5),
            ("starlette_app", "/private", ("whoami",), "ada"),
            ("litestar_app", "/ws", ("whoami",), "ada"),
            ("quart_app", "/ws", ("add", 2, 3), 5),
            ("plain", "/", ("add", 2, 3), 5),
            ("dispatch", "/ada", ("whoami",), "ada"),
        )
    ),
]
"""The commands of the page, and those that start the other applications there, each with its program, the path, a
request and the answer."""
SESSION = {"Cookie": "session=3f9a"}
"""Of the user whom the factory knows."""


@pytest.mark.parametrize(("command", "program", "path", "request_", "answer"), STARTED)
async def test_an_application_is_started_as_shown(
    command: str, program: str, path: str, request_: tuple[str, *tuple[object, ...]], answer: object, tmp_path: Path
) -> None:
    (tmp_path / "app.py").write_text(program, "utf-8")
    async with running(command, tmp_path) as url, Client(f"{url}{path}", headers=SESSION) as client:
        assert await client.request(*request_) == answer


DJANGO_SETTINGS = """
SECRET_KEY = "for this test"
ALLOWED_HOSTS = ["*"]
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "database.sqlite3"}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
ROOT_URLCONF = "project.settings"
urlpatterns = []
"""

LOG_IN = """
import os
os.environ["DJANGO_SETTINGS_MODULE"] = "project.settings"
import django
django.setup()
from django.contrib.auth.models import User
from django.core.management import call_command
from django.test import Client
call_command("migrate", verbosity=0)
client = Client()
client.force_login(User.objects.create_user("ada"))
print(client.cookies["sessionid"].value)
"""


async def test_the_django_project_knows_who_is_logged_in(tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "settings.py").write_text(DJANGO_SETTINGS, "utf-8")
    (project / "asgi.py").write_text(program_of(HOW_TO / "frameworks.md", "asgi.py"), "utf-8")
    session = (await printed_by(await start(PYTHON[0], "-c", LOG_IN, cwd=tmp_path))).strip()
    [command] = [each for each in SERVES if "project" in each]
    async with running(command, tmp_path) as url:
        async with Client(f"{url}/ws", headers={"Cookie": f"sessionid={session}"}) as client:
            assert await client.request("whoami") == "ada"
        with pytest.raises(HandshakeRejected) as caught:
            await Client(f"{url}/ws").connect()
        assert (caught.value.status, caught.value.body) == (401, "log in first")


# ---------------------------------------------------------------- TLS


async def test_the_certificates_are_made_as_shown(tmp_path: Path) -> None:
    made = commands("tls", "openssl")
    assert len(made) == 3
    for command in made:
        ran = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(tmp_path / "ca.pem"))
    context.load_cert_chain(tmp_path / "server.pem", tmp_path / "server.key")
    context.verify_mode = ssl.CERT_REQUIRED
    trusting = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
    trusting.load_cert_chain(tmp_path / "client.pem", tmp_path / "client.key")
    server = Server()
    server.on("add", lambda a, b: a + b)
    async with server.listen(ssl=context) as listener, Client(listener.url, ssl=trusting) as client:
        assert await client.request("add", 2, 3) == 5
