"""A rolling update of examples/cluster/kubernetes.yaml: what a kubelet does with its pods, and what clients see."""

from __future__ import annotations

import asyncio
import os
import signal
import zlib
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import aiohttp
import yaml
from cluster_workers import EXAMPLE, User, Worker, environment, running
from engine_servers import redis_server
from waiting import until

from wsrpc import Peer, ReconnectInfo, Server
from wsrpc.cluster import Cluster
from wsrpc.testing import connect
from wsrpc_adapters.redis import RedisEngine

USERS = [f"user{number}" for number in range(8)]
EXIT_TIMEOUT = 15
"""Seconds after the drain timeout after which `wsrpc serve` kills a worker."""


def manifest() -> dict[str, Any]:
    """The specifications of the manifest, by kind."""
    text = (EXAMPLE / "kubernetes.yaml").read_text("utf-8")
    documents = list(yaml.safe_load_all(text))
    assert {document["metadata"]["name"] for document in documents} == {"chat"}
    return {document["kind"]: document["spec"] for document in documents}


DEPLOYMENT = manifest()["Deployment"]
POD = DEPLOYMENT["template"]["spec"]
[CONTAINER] = POD["containers"]
[PORT] = CONTAINER["ports"]
WORDS = [*CONTAINER["command"], *CONTAINER["args"]]


class Pod:
    """A pod, whose only process is that of its container."""

    def __init__(self, name: str, worker: Worker, port: int) -> None:
        self.name = name
        self.worker = worker
        self.port = port

    async def passes(self, probe: str) -> bool:
        """Whether a probe succeeds, as a kubelet sees it."""
        spec = CONTAINER[probe]
        try:
            if "httpGet" not in spec:
                assert spec["tcpSocket"] == {"port": PORT["name"]}
                _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                writer.close()
                return True
            assert spec["httpGet"]["port"] == PORT["name"]
            url = f"http://127.0.0.1:{self.port}{spec['httpGet']['path']}"
            async with aiohttp.ClientSession() as session, session.get(url) as response:
                return 200 <= response.status < 400
        except (OSError, aiohttp.ClientError):
            return False

    async def end(self) -> int:
        """End it as a kubelet does: SIGTERM, and SIGKILL at the end of the grace period. Return its exit status."""
        os.kill(self.worker.process.pid, signal.SIGTERM)
        try:
            async with asyncio.timeout(POD["terminationGracePeriodSeconds"]):
                return await self.worker.process.wait()
        except TimeoutError:
            with suppress(ProcessLookupError):
                os.killpg(self.worker.process.pid, signal.SIGKILL)
            return await self.worker.process.wait()


class Pods(list[Pod]):
    """The endpoints of the service, and the ingress: it sends a client to a pod by a hash of ``?client=``."""

    def __init__(self, redis: str, stack: AsyncExitStack) -> None:
        super().__init__()
        self._secrets = {("chat", "redis"): redis}
        self._stack = stack
        self._started = 0
        self.at: dict[str, Pod] = {}
        """Where each client has dialed last."""

    async def start(self) -> Pod:
        """Start a pod. It is an endpoint once it is ready."""
        env = environment("")
        for variable in CONTAINER["env"]:
            secret = variable["valueFrom"]["secretKeyRef"]
            env[variable["name"]] = self._secrets[secret["name"], secret["key"]]
        local = {"0.0.0.0": "127.0.0.1", str(PORT["containerPort"]): "0"}
        program, command, app, *options = (local.get(word, word) for word in WORDS)
        worker = await self._stack.enter_async_context(
            running(EXAMPLE, app, *options, env=env, command=(program, command))
        )
        self._started += 1
        pod = Pod(f"pod{self._started}", worker, await worker.port())
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            while not await pod.passes(probe):  # noqa: ASYNC110 - a kubelet asks again, too
                await asyncio.sleep(0.05)
        await worker.logged("has met node", times=len(self) + 1)  # each pod, and the listener
        self.append(pod)
        return pod

    def urls(self, client: str) -> Iterator[str]:
        """Yield where the ingress sends this client, for each attempt to connect."""
        while True:
            self.at[client] = max(self, key=lambda pod: zlib.crc32(f"{client} {pod.name}".encode()))
            yield f"ws://127.0.0.1:{self.at[client].port}/ws?client={client}"


class Talker(User):
    """A user who says one number after another, and counts drops and reconnects."""

    def __init__(self, name: str, urls: Iterator[str]) -> None:
        super().__init__(name, urls)
        self.counts: Counter[str] = Counter()
        self.asked, self.answer = asyncio.Event(), asyncio.Event()
        self.client.on_detach(lambda: self.counts.update(["detached"]))
        self.client.on("whispered", self._whispered)

        @self.client.on_reconnect
        def back(info: ReconnectInfo) -> None:
            self.counts["resumed" if info.resumed else "new session"] += 1

    async def _whispered(self, who: str, text: str) -> str:
        self.asked.set()
        await self.answer.wait()
        return f"{self.name} heard {text}"

    async def talk(self, stop: asyncio.Event) -> int:
        """Return how much it has said. Each request has its answer."""
        said = 0
        while not stop.is_set():
            await self.say(str(said))
            said += 1
        return said


@asynccontextmanager
async def listener(redis: str, heard: dict[str, list[str]]) -> AsyncGenerator[None]:
    """Join the cluster with a member of the lobby, whom no update moves."""
    server = Server(cluster=Cluster(RedisEngine(redis), name="chat"))

    @server.on("open")
    def opened(peer: Peer) -> None:
        server.room("lobby").add(peer)

    async with connect(server) as client:
        client.on("said", lambda who, text: heard.setdefault(who, []).append(text))
        client.on("entered", lambda who: None)
        yield
    await server.close()


def test_the_grace_period_is_long_enough() -> None:
    sleep, seconds = CONTAINER["lifecycle"]["preStop"]["exec"]["command"]
    assert sleep == "sleep"
    drain = float(WORDS[WORDS.index("--drain-timeout") + 1])
    assert POD["terminationGracePeriodSeconds"] >= float(seconds) + drain + EXIT_TIMEOUT + 5
    assert "--workers" not in WORDS


def test_the_parts_of_the_manifest_belong_together() -> None:
    parts = manifest()
    labels = DEPLOYMENT["template"]["metadata"]["labels"]
    assert parts["Service"]["selector"] == labels
    for kind in ("Deployment", "PodDisruptionBudget"):
        assert parts[kind]["selector"] == {"matchLabels": labels}
    [service] = parts["Service"]["ports"]
    [rule] = parts["Ingress"]["rules"]
    [path] = rule["http"]["paths"]
    assert service["targetPort"] == PORT["name"]
    assert path["backend"]["service"] == {"name": "chat", "port": {"name": service["name"]}}
    assert str(PORT["containerPort"]) == WORDS[WORDS.index("--port") + 1]


async def test_a_rolling_update() -> None:
    """No request is lost or handled twice. Each client reconnects once for each old pod that it is connected to."""
    assert DEPLOYMENT["strategy"] == {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    redis = redis_server()
    heard: dict[str, list[str]] = {}
    try:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(listener(redis.url, heard))
            pods = Pods(redis.url, stack)
            for _ in range(DEPLOYMENT["replicas"]):
                await pods.start()
            old = [*pods]
            users = [await stack.enter_async_context(Talker(name, pods.urls(name))) for name in USERS]
            await users[0].sees(*USERS)
            stop, moves = asyncio.Event(), Counter[str]()
            async with asyncio.TaskGroup() as group:
                talking = [group.create_task(user.talk(stop)) for user in users]
                for pod in old:
                    await pods.start()
                    mine = [user for user in users if pods.at[user.name] is pod]
                    moves.update(user.name for user in mine)
                    asker, asked = mine[0], next(user for user in users if user is not mine[0])
                    await asker.sees(*USERS)
                    whisper = group.create_task(asker.whisper(asked.name, "wait"))
                    await asked.asked.wait()

                    pods.remove(pod)
                    assert await pod.passes("readinessProbe")  # in preStop, of which only the seconds are left out
                    ended = group.create_task(pod.end())
                    while await pod.passes("readinessProbe"):  # noqa: ASYNC110 - nobody tells
                        await asyncio.sleep(0.01)
                    assert await pod.passes("livenessProbe")
                    asked.answer.set()
                    assert await whisper == f"{asked.name} heard wait"
                    assert await ended == 0
                    asked.asked.clear()
                    asked.answer.clear()
                stop.set()
            said = {user.name: task.result() for user, task in zip(users, talking, strict=True)}
            await until(lambda: sum(map(len, heard.values())) >= sum(said.values()))
    finally:
        redis.kill()
    assert heard == {name: [*map(str, range(count))] for name, count in said.items()}
    assert {user.name: user.counts for user in users} == {name: {"new session": moves[name]} for name in USERS}
    assert {*moves.values()} <= {1, 2}
