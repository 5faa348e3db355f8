"""The commands and whole programs of the guides for web frameworks, uvicorn and TLS, as their readers run them."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import signal
import ssl
import subprocess
import sys
import tomllib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from programs import UVICORN_STARTED, free_port, listening
from test_docs import blocks_of, program_of

from wsrpc import Client, ConnectFailed, ConnectionLost, HandshakeRejected, Server

ROOT = Path(__file__).parent.parent.parent
HOW_TO = ROOT / "docs" / "how-to"
NAMES = ("fastapi", "frameworks", "uvicorn", "picows", "tls", "client-certificates")
PAGES = [HOW_TO / f"{name}.md" for name in NAMES]
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "adapters"), "."])}


def commands(page: Path) -> list[str]:
    """The commands of a page; a line that ends with a backslash goes on in the next one."""
    found: list[str] = []
    for block in blocks_of(page):
        if block.language == "console":
            found += re.findall(r"^\$ ((?:.*\\\n)*.*)$", block.text, re.MULTILINE)
    return found


def of_program(page: Path, program: str) -> list[str]:
    return [command for command in commands(page) if command.split()[0] == program]


def test_every_command_is_run_by_a_test() -> None:
    assert {command.split()[0] for page in PAGES for command in commands(page)} == {
        "pip",
        "uvicorn",
        "python",
        "openssl",
    }
    assert set(of_program(HOW_TO / "fastapi.md", "uvicorn")) == set(FASTAPI)


def test_the_table_of_extras_has_each_extra_and_what_it_installs() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    section = (ROOT / "docs" / "index.md").read_text("utf-8").partition("\n## Install\n")[2].partition("\n## ")[0]
    shown = dict(re.findall(r"^\| `([\w-]+)` \| ([^|]+) \|", section, re.MULTILINE))
    installed = {name: ", ".join(re.split(r"[>=]", each)[0] for each in needed) for name, needed in extras.items()}
    no_library = "none: install the framework and an ASGI server yourself"
    assert shown == {**installed, "asgi": no_library, "all": "all libraries in this table"}
    used = set(re.findall(r"'\.\[([\w,-]+)\]'", section))
    assert used and set(",".join(used).split(",")) <= set(extras)


def test_every_install_command_installs_a_clone() -> None:
    for page in (ROOT / "docs").rglob("*.md"):
        text = page.read_text("utf-8")
        assert "python-wsrpc[" not in text, page
        if "pip install" in text and page.name != "index.md":
            assert "index.md#install)" in text, page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_is_installed_exists(page: Path) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    for command in of_program(page, "pip"):
        for requirement in shlex.split(command)[2:]:
            name, _, extra = requirement.rstrip("]").partition("[")
            assert (name == "." and extra in extras) or requirement == "fastapi", command
    assert not of_program(page, "pip") or "](../index.md#install)" in page.read_text("utf-8")


@asynccontextmanager
async def running(command: str, folder: Path) -> AsyncGenerator[int]:
    """Run a command of uvicorn on a free port, and give that; in the end uvicorn must stop without a traceback."""
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", *shlex.split(command), "--port", str(port)),
        cwd=folder,
        env=ENVIRONMENT,
        stderr=asyncio.subprocess.PIPE,
    )
    async with listening(process, UVICORN_STARTED, signal.SIGTERM):
        yield port


# ---------------------------------------------------------------- FastAPI

FIRST = "uvicorn app:app --ws wsrpc_adapters.uvicorn:WebSocketProtocol"
FASTAPI = {
    FIRST: (0, "add"),
    f"{FIRST} --reload": (0, "add"),
    f"{FIRST} --workers 4": (0, "add"),
    "uvicorn --factory app:make_app --ws wsrpc_adapters.uvicorn:WebSocketProtocol": (1, "buy"),
}
"""The commands of the page, each with the last of the blocks that are its program, and an event of that."""


@pytest.mark.parametrize("command", FASTAPI)
async def test_the_fastapi_application_is_started_as_shown(command: str, tmp_path: Path) -> None:
    last, event = FASTAPI[command]
    blocks = [block.text for block in blocks_of(HOW_TO / "fastapi.md") if block.language == "python"]
    (tmp_path / "app.py").write_text("\n".join(blocks[: last + 1]), "utf-8")
    arguments = ("apples",) if event == "buy" else (2, 3)
    async with running(command, tmp_path) as port, Client(f"ws://127.0.0.1:{port}/ws") as client:
        assert await client.request(event, *arguments) == (2 if event == "buy" else 5)


# ---------------------------------------------------------------- other frameworks

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
    logging_in = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", LOG_IN), cwd=tmp_path, env=ENVIRONMENT, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await logging_in.communicate()
    assert logging_in.returncode == 0
    [command] = [each for each in of_program(HOW_TO / "frameworks.md", "uvicorn") if "project" in each]
    async with running(command, tmp_path) as port:
        url = f"ws://127.0.0.1:{port}/ws"
        async with Client(url, headers={"Cookie": f"sessionid={out.decode().strip()}"}) as client:
            assert await client.request("whoami") == "ada"
        with pytest.raises(HandshakeRejected) as caught:
            await Client(url).connect()
        assert (caught.value.status, caught.value.body) == (401, "log in first")


async def test_the_plain_application_is_started_as_shown(tmp_path: Path) -> None:
    page = HOW_TO / "frameworks.md"
    blocks = [block.text for block in blocks_of(page) if block.language == "python" and block.program is None]
    (tmp_path / "app.py").write_text("\n".join(blocks), "utf-8")
    [command] = [each for each in of_program(page, "uvicorn") if "project" not in each]
    async with running(command, tmp_path) as port, Client(f"ws://127.0.0.1:{port}/") as client:
        assert await client.request("add", 2, 3) == 5


# ---------------------------------------------------------------- uvicorn


@pytest.mark.parametrize("command", of_program(HOW_TO / "uvicorn.md", "uvicorn"))
async def test_uvicorn_is_started_as_shown(command: str, tmp_path: Path) -> None:
    [program] = [block.text for block in blocks_of(HOW_TO / "uvicorn.md") if "app = FastAPI(" in block.text]
    (tmp_path / "app.py").write_text(program, "utf-8")
    async with running(command, tmp_path) as port, Client(f"ws://127.0.0.1:{port}/ws") as client:
        assert await client.request("add", 2, 3) == 5


# The last part of each `app.py`: a handler that waits for its caller.
SLOW = """

@{target}.on("slow")
async def slow(peer: Peer) -> str:
    return await peer.request("name")
"""
GLOBAL = "\nfrom wsrpc import Peer" + SLOW.format(target="server")
DRAINING = {"serve.py": ("uvicorn", 1, GLOBAL), "serve_factory.py": ("fastapi", 2, SLOW.format(target="rpc"))}
"""The programs of the page, each with the page whose first blocks are its application."""


@pytest.mark.parametrize("program", DRAINING)
async def test_a_program_drains_before_uvicorn_stops(program: str, tmp_path: Path) -> None:
    page, count, slow = DRAINING[program]
    blocks = [block.text for block in blocks_of(HOW_TO / f"{page}.md") if block.language == "python"]
    (tmp_path / "app.py").write_text("\n".join(blocks[:count]) + slow, "utf-8")
    for name in DRAINING:
        (tmp_path / name).write_text(program_of(HOW_TO / "uvicorn.md", name), "utf-8")
    [command] = of_program(HOW_TO / "uvicorn.md", "python")
    assert command == "python serve.py --port 8001"
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, program, "--port", str(port)), cwd=tmp_path, env=ENVIRONMENT, stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    try:
        while line := await process.stderr.readline():
            if b"Uvicorn running" in line:
                break
        started, may_end = asyncio.Event(), asyncio.Event()
        client = Client(f"ws://127.0.0.1:{port}/ws", reconnect=None)

        @client.on("name")
        async def tell_name() -> str:
            started.set()
            await may_end.wait()
            return "Ada"

        async with client:
            request = asyncio.create_task(client.request("slow"))
            await started.wait()
            process.send_signal(signal.SIGTERM)
            last: BaseException | None = None
            while not isinstance(last, HandshakeRejected):  # until it drains
                if request.done():
                    await request  # raises: the connection was closed
                try:
                    await (late := Client(f"ws://127.0.0.1:{port}/ws", reconnect=None)).connect()
                    await late.close()
                except ConnectFailed as failed:
                    last = failed.last_error
                except ConnectionLost as lost:  # it came just before the server drained
                    last = lost
            assert last.status == 503
            may_end.set()
            assert await request == "Ada"
            said = (await process.stderr.read()).decode()
        assert "Application shutdown complete" in said and "Traceback" not in said, said
    finally:
        if process.returncode is None:
            process.terminate()
        await process.communicate()


# ---------------------------------------------------------------- TLS


async def test_the_certificates_are_made_as_shown(tmp_path: Path) -> None:
    made = [*of_program(HOW_TO / "tls.md", "openssl"), *of_program(HOW_TO / "client-certificates.md", "openssl")]
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
