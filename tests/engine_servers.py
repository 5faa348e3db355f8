"""Servers of NATS, Redis and PostgreSQL, started by the tests on free ports of the loopback interface."""

from __future__ import annotations

import asyncio
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any, Protocol
from urllib.parse import urlsplit

from programs import free_port as free_port
from redis import Redis
from redis.crc import key_slot

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


def cluster_port() -> int:
    """A port for a node of a cluster. That of its bus is greater by 10,000, and nobody takes it."""
    return free_port() - 10_000


class SeveralRedis:
    """Servers of Redis behind one URL, in a folder of their own."""

    url = ""

    def __init__(self) -> None:
        self.folder = tempfile.mkdtemp(prefix="wsrpc-redis-")
        self.servers: dict[int, ServerProcess] = {}
        """By port."""

    def start(self, port: int, *options: str) -> None:
        self.servers[port] = redis_server("--dir", self.folder, *options, port=port)

    def info(self, port: int, section: str) -> dict[str, str]:
        with Redis(port=port, decode_responses=True) as client:
            answer: dict[str, str] = client.info(section)
            return answer

    def freeze(self) -> None:
        for server in self.servers.values():
            server.freeze()

    def thaw(self) -> None:
        for server in self.servers.values():
            server.thaw()

    def kill(self) -> None:
        """End them, and remove their files. Idempotent."""
        for server in self.servers.values():
            server.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


class RedisClusterServers(SeveralRedis):
    """A Redis Cluster of three nodes, each of which may have a replica. They know each other from the start."""

    def __init__(self, *, replicas: bool = False) -> None:
        super().__init__()
        ports = [cluster_port() for _ in range(6 if replicas else 3)]
        known = [f"{n:040} 127.0.0.1:{port}@{port + 10_000} {{}}" for n, port in enumerate(ports)]
        roles = [f"master - 0 0 {n + 1} connected {n * 5462}-{min(n * 5462 + 5461, 16383)}" for n in range(3)]
        roles += [f"slave {n:040} 0 0 {n + 1} connected" for n in range(3)]
        for number, port in enumerate(ports):
            nodes = [line.format("myself," * (n == number) + roles[n]) for n, line in enumerate(known)]
            config = Path(self.folder, f"{port}.conf")
            config.write_text("\n".join([*nodes, "vars currentEpoch 3 lastVoteEpoch 0\n"]))
            self.start(
                port,
                *["--cluster-enabled", "yes", "--cluster-node-timeout", "500", "--cluster-config-file"],
                config.name,
            )
        self.url = "redis+cluster://" + ",".join(f"127.0.0.1:{port}" for port in ports[:3])
        first = key_slot(b"wsrpc") // 5462
        self.primary, self.replica = ports[first], ports[first - 3]
        for port in ports:
            with Redis(port=port, decode_responses=True) as client:
                while "cluster_state:ok" not in client.execute_command("CLUSTER", "INFO"):
                    time.sleep(0.01)


class RedisSentinelServers(SeveralRedis):
    """A primary, a replica, and a Sentinel. The URL also leads to another Sentinel, which never answers."""

    def __init__(self) -> None:
        super().__init__()
        self.primary, self.replica, self.sentinel = (free_port() for _ in range(3))
        self.start(self.primary)
        self.start(self.replica, "--replicaof", "127.0.0.1", str(self.primary))
        while self.info(self.replica, "replication")["master_link_status"] != "up":
            time.sleep(0.01)
        config = Path(self.folder, "sentinel.conf")
        config.write_text(f"""port {self.sentinel}
            sentinel monitor shop 127.0.0.1 {self.primary} 1
            sentinel down-after-milliseconds shop 500
            sentinel failover-timeout shop 5000
        """)
        command = "redis-server", str(config), "--sentinel"
        self.servers[self.sentinel] = ServerProcess("", "Sentinel ID is", *command)
        self.silent = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis+sentinel://127.0.0.1:{self.silent.getsockname()[1]},127.0.0.1:{self.sentinel}/shop"

    def kill(self) -> None:
        super().kill()
        self.silent.close()


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

    def __init__(self, start: Mapping[str, Callable[[], EngineServer] | None]) -> None:
        self._start = start
        self._servers: dict[str, EngineServer] = {}

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
