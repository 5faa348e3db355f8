"""Servers of NATS, Redis and PostgreSQL, started by the tests on free ports of the loopback interface."""

from __future__ import annotations

import asyncio
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any, Protocol
from urllib.parse import urlsplit

from programs import free_port as free_port

HOW_TO_INSTALL = "'make test' installs it, and so do 'pip install --group engines' and 'apt-get install {package}'"


class EngineServer(Protocol):
    """A server that tests may kill and freeze."""

    @property
    def url(self) -> str: ...

    def freeze(self) -> None: ...

    def thaw(self) -> None: ...

    def kill(self) -> None: ...


def command_of(name: str) -> str:
    """Where a command is: on the PATH, beside this Python, or where Debian and PyPI's packages have PostgreSQL."""
    of_postgres = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    of_postgres += Path(sysconfig.get_path("purelib")).glob("*pgserver/pginstall/bin")
    places = [os.environ.get("PATH", ""), str(Path(sys.executable).parent), *map(str, of_postgres)]
    found = shutil.which(name, path=os.pathsep.join(places))
    package = "postgresql" if name in ("initdb", "postgres") else name
    assert found is not None, f"there is no {name}: " + HOW_TO_INSTALL.format(package=package)
    return found


lasting_port = free_port
"""A port that stays free while the server that had it is away."""


class ServerProcess:
    """A server, which has said by a line that matches ``ready`` that it listens."""

    def __init__(self, url: str, ready: str, *command: str, **options: Any) -> None:
        program = command_of(command[0])
        self._process = subprocess.Popen(
            [program, *command[1:]],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            **options,
        )
        assert self._process.stdout is not None
        self._output: IO[str] = self._process.stdout
        said = ""
        while re.search(ready, said) is None:
            line = self._output.readline()
            if not line:
                self.kill()
                raise AssertionError(f"{' '.join(command)} ended:\n{said}")
            said += line
        port = re.search(r"client connections on 127\.0\.0\.1:(\d+)", said)
        self.url = url if port is None else f"{url}:{port[1]}"

    def freeze(self) -> None:
        """Stop it, and wait until it has stopped."""
        self._process.send_signal(signal.SIGSTOP)
        os.waitpid(self._process.pid, os.WUNTRACED)

    def thaw(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def end(self) -> None:
        """Let it end, with the processes that it has started. Idempotent."""
        self._process.terminate()
        self._process.wait()
        self._output.close()

    def kill(self) -> None:
        """End it, frozen or not. Idempotent."""
        self._process.kill()
        self._process.wait()
        self._output.close()


def nats_server(*options: str, port: int = -1) -> ServerProcess:
    """Start one, on ``port``, or on one that it chooses itself."""
    return ServerProcess(
        "nats://127.0.0.1", "Server is ready", "nats-server", "-a", "127.0.0.1", "-p", str(port), *options
    )


def redis_server(*options: str, port: int | None = None) -> ServerProcess:
    """Start one, which stores nothing, on ``port``, or on a free one."""
    port = port or free_port()
    return ServerProcess(
        f"redis://127.0.0.1:{port}",
        "(?i)ready to accept connections",
        *("redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"),
        *options,
    )


class PostgresServer(ServerProcess):
    """A PostgreSQL with an empty database, in a folder of its own. It refuses to run as root, who lets it be nobody."""

    def __init__(self) -> None:
        self._folder = tempfile.mkdtemp(prefix="wsrpc-postgres-")
        user: dict[str, Any] = {}
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
            os.chown(self._folder, nobody.pw_uid, nobody.pw_gid)
        data, port = f"{self._folder}/data", free_port()
        made = command_of("initdb"), "-D", data, "-U", "wsrpc", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"
        subprocess.run(made, check=True, capture_output=True, cwd="/", **user)
        # What it logs after the line that it is ready would fill the pipe.
        settings = ("fsync=off", "unix_socket_directories=", "log_min_messages=log", "log_checkpoints=off")
        self.start = partial(
            super().__init__,
            f"postgresql://wsrpc@127.0.0.1:{port}/postgres",
            "ready to accept connections",
            *("postgres", "-D", data, "-h", "127.0.0.1", "-p", str(port)),
            *(word for setting in settings for word in ("-c", setting)),
            cwd="/",
            **user,
        )
        """Starts it, also again after `crash`."""
        self.start()

    def crash(self) -> None:
        """End it, with its processes, without a checkpoint: it has to recover when it is started again."""
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait()
        self._output.close()

    def kill(self) -> None:
        """End it, and remove its files. Idempotent."""
        self.crash()
        super().kill()
        shutil.rmtree(self._folder, ignore_errors=True)


class Started:
    """Servers that tests share, by kind, each started when it is first asked for."""

    def __init__(self, start: Mapping[str, Callable[[], ServerProcess] | None]) -> None:
        self._start = start
        self._servers: dict[str, ServerProcess] = {}

    def url(self, kind: str) -> str:
        """The URL of a server, or an empty string for a kind that has none."""
        start = self._start[kind]
        if start is not None and kind not in self._servers:
            self._servers[kind] = start()
        return self._servers[kind].url if kind in self._servers else ""

    def kill(self) -> None:
        for server in self._servers.values():
            server.kill()


@asynccontextmanager
async def address_of(servers: list[str]) -> AsyncGenerator[str]:
    """Gives a URL that leads to the first of these servers. Open connections stay with the server that they have."""

    passed: set[asyncio.Task[None]] = set()

    async def one_way(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
        finally:
            writer.transport.abort()

    async def passing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        parts = urlsplit(servers[0])
        try:
            there = await asyncio.open_connection(parts.hostname, parts.port)
        except OSError:  # nobody listens there
            writer.transport.abort()
            return
        passed.update(map(asyncio.ensure_future, (one_way(reader, there[1]), one_way(there[0], writer))))

    server = await asyncio.start_server(passing, "127.0.0.1", 0)
    try:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in passed:
            task.cancel()
        await asyncio.gather(*passed, return_exceptions=True)


if __name__ == "__main__":  # for the Makefile
    print(command_of(sys.argv[1]))
