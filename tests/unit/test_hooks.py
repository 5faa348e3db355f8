"""Hook x deed: whatever code of the application does in the midst of a change, nothing is left between two states.

wsrpc calls each hook between a drop of the connection and the end of the client and the server, and the hook does its
deed once. Afterwards the client is connected or rests, each call has ended, and another client is served. A mistake is
reported: to a caller, in the log, or, if it is the log that has failed, by `sys.unraisablehook`.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from leftovers import nothing_left as nothing_left
from waiting import until

from wsrpc import Client, Context, Handshake, KeepLatest, Limits, Peer, Quotas, Reconnect, Server, Service, method
from wsrpc._server.presence.room_users import BATCHED
from wsrpc.codecs import Codec, MsgpackCodec
from wsrpc.store import MemoryStore
from wsrpc.testing import Line

pytestmark = pytest.mark.usefixtures("nothing_left")

FIRST, OTHER = "first", "other"
LATE = ("late", "new")
"""Rooms that the client joins only after the drop."""
MISTAKE = "a mistake of the application"


class Odd(BaseException):
    """Of no kind that anybody expects."""


RAISES = {
    "raises": LookupError(MISTAKE),
    "raises CancelledError": asyncio.CancelledError(MISTAKE),
    "raises no Exception": Odd(MISTAKE),
}
DEEDS = [*RAISES, "returns something else", "closes the client", "closes the peer"]


class Scene:
    """A server, a client that loses its connection, and the deed of a hook, which is due once it is ``armed``."""

    def __init__(self, deed: str) -> None:
        self.deed = deed
        self.armed = self.done = False
        self.server_options: dict[str, Any] = {"detached_timeout": 5.0}
        self.client_options: dict[str, Any] = {"reconnect": Reconnect(initial=0.001, max=0.001)}
        self.attach: Callable[[], object] = lambda: None
        """Registers the hook, once there are a client and a server."""
        self.codec: Codec | None = None
        """Of both sides, unless they negotiate one."""
        self.principal: Any = FIRST
        self.go = asyncio.Event()
        self.closing: list[asyncio.Future[Any]] = []

    def begin(self, limits: Limits) -> None:
        self.server = server = Server(**{"limits": limits, "codec": self.codec} | self.server_options)
        self.line = Line(server)
        options: dict[str, Any] = {
            "url": "ws://server/",
            "dial": self.line.dial,
            "limits": limits,
            "auth": FIRST,
            "codec": self.codec,
        }
        self.client = Client(**options | self.client_options)
        server.on("echo", lambda value: value)
        server.on("park", self.go.wait)
        server.on("act", lambda: None)
        server.on_handshake(self.identify)
        for name in ("kept", "late"):
            server.room(name, keep=60, allow=lambda peer: True, state=lambda peer: "state")
        server.room("seen", presence=60, allow=lambda peer: True)
        self.client.on("add", lambda a, b: a + b)
        self.attach()

    def identify(self, handshake: Handshake) -> None:
        handshake.principal = self.principal if handshake.bearer_token == FIRST else OTHER

    @property
    def peers(self) -> list[Peer]:
        """The peer of the client, while there is one."""
        return [peer for peer in self.server.peers if peer.principal is not OTHER]

    def fire(self, *_: Any) -> Any:
        """Do the deed, if it is due."""
        if not self.armed:
            return None
        self.armed, self.done = False, True
        if self.deed in RAISES:
            raise RAISES[self.deed]
        if self.deed == "returns something else":
            return object()
        ends: list[Any] = [self.client] if self.deed == "closes the client" else [*self.peers, self.client.peer]
        self.closing.append(asyncio.ensure_future(ends[0].close()))
        return None

    async def fire_later(self, *_: Any) -> Any:
        await asyncio.sleep(0)
        return self.fire()


# ---------------------------------------------------------------- hooks

HOOKS: dict[str, Callable[[Scene], object]] = {}
RESUMES: dict[str, bool] = {}
"""Hooks that are called only if the session resumes, or only if it does not."""
SHOWN = ("principal: repr", "principal: hash", "server: codec, decode", "client: codec, decode")
"""Hooks whose mistakes are seen otherwise: a line of the log names the type, what has no hash counts by its network,
and what cannot be decoded is no message."""


def hook(name: str, *, resumes: bool | None = None) -> Callable[[Callable[[Scene], object]], object]:
    def note(function: Callable[[Scene], object]) -> object:
        HOOKS[name] = function
        if resumes is not None:
            RESUMES[name] = resumes
        return function

    return note


def registered(name: str, register: Callable[[Scene, Any], object], resumes: bool | None = None) -> None:
    """Add a hook that is registered, as ``def`` and as ``async def``."""

    @hook(f"{name}, def", resumes=resumes)
    def plain(scene: Scene) -> None:
        scene.attach = lambda: register(scene, scene.fire)

    @hook(f"{name}, async def", resumes=resumes)
    def later(scene: Scene) -> None:
        scene.attach = lambda: register(scene, scene.fire_later)


registered("server: open", lambda scene, function: scene.server.on("open", function), False)
registered("server: close", lambda scene, function: scene.server.on("close", function))
registered("server: message", lambda scene, function: scene.server.on("message", function))
registered("server: handler", lambda scene, function: scene.server.on("act", function))
registered("server: on_detach", lambda scene, function: scene.server.on_detach(function), True)
registered("server: on_resume", lambda scene, function: scene.server.on_resume(function), True)
registered("server: on_presence", lambda scene, function: scene.server.on_presence(function))
registered("server: on_drain", lambda scene, function: scene.server.on_drain(function))
registered("server: on_join", lambda scene, function: scene.server.on_join(function))
registered("client: open", lambda scene, function: scene.client.on("open", function), False)
registered("client: close", lambda scene, function: scene.client.on("close", function))
registered("client: message", lambda scene, function: scene.client.on("message", function))
registered("client: on_detach", lambda scene, function: scene.client.on_detach(function), True)
registered("client: on_reconnect", lambda scene, function: scene.client.on_reconnect(function))
registered("client: on_state", lambda scene, function: scene.client.room("late").on_state(function))
registered("client: on_missed", lambda scene, function: scene.client.room("seen").on_missed(function), False)
registered("client: on_presence", lambda scene, function: scene.client.room("seen").on_presence(function))


@hook("server: on_handshake, def")
def on_handshake(scene: Scene) -> None:
    def function(handshake: Handshake) -> Any:
        scene.identify(handshake)
        return scene.fire()

    scene.attach = lambda: scene.server.on_handshake(function)


@hook("server: on_handshake, async def")
def async_on_handshake(scene: Scene) -> None:
    async def function(handshake: Handshake) -> Any:
        scene.identify(handshake)
        return await scene.fire_later()

    scene.attach = lambda: scene.server.on_handshake(function)


@hook("room: allow")
def allow(scene: Scene) -> None:
    async def function(peer: Peer) -> Any:
        return await scene.fire_later() or True

    scene.attach = lambda: scene.server.room("asked", allow=function)


@hook("room: state")
def state(scene: Scene) -> None:
    scene.attach = lambda: scene.server.room("new", keep=60, allow=lambda peer: True, state=lambda peer: scene.fire())


@hook("middleware")
def middleware(scene: Scene) -> None:
    async def around(ctx: Context, call_next: Callable[[Context], Awaitable[Any]]) -> Any:
        return await scene.fire_later() or await call_next(ctx)

    scene.attach = lambda: scene.server.use(around)


@hook("middleware with a yield")
def generator_middleware(scene: Scene) -> None:
    def around(ctx: Context) -> Iterator[None]:
        yield
        scene.fire()

    scene.attach = lambda: scene.server.use(around)


@hook("use_outgoing, def")
def outgoing(scene: Scene) -> None:
    scene.attach = lambda: scene.client.use_outgoing(lambda call: scene.fire())


@hook("use_outgoing with a yield")
def outgoing_generator(scene: Scene) -> None:
    def around(call: Any) -> Iterator[None]:
        yield
        scene.fire()

    scene.attach = lambda: scene.client.use_outgoing(around)


@hook("use_outgoing, async def")
def async_outgoing(scene: Scene) -> None:
    async def around(call: Any, call_next: Callable[[Any], Awaitable[Any]]) -> Any:
        return await scene.fire_later() or await call_next(call)

    scene.attach = lambda: scene.server.use_outgoing(around)


@hook("client: retry")
def retry(scene: Scene) -> None:
    scene.client_options["reconnect"] = Reconnect(initial=0.001, max=0.001, retry=lambda exc: scene.fire() or True)


def option(name: str, value: Any) -> None:
    """Add a function that is an option of the client, as ``def`` and as ``async def``."""

    @hook(f"client: {name}, def")
    def plain(scene: Scene) -> None:
        scene.client_options[name] = lambda: scene.fire() or value

    @hook(f"client: {name}, async def")
    def later(scene: Scene) -> None:
        async def function() -> Any:
            return await scene.fire_later() or value

        scene.client_options[name] = function


option("url", "ws://server/")
option("auth", FIRST)
option("headers", {})


@hook("client: dial")
def dial(scene: Scene) -> None:
    async def function(url: str, **options: Any) -> Any:
        return await scene.fire_later() or await scene.line.dial(url, **options)

    scene.client_options["dial"] = function


@hook("Quotas(by=)", resumes=False)
def subject_of_quotas(scene: Scene) -> None:
    scene.server_options["quotas"] = Quotas(by=lambda handshake: scene.fire() or "all", connections=100)


@hook("KeepLatest(key=)")
def key_of_slow_readers(scene: Scene) -> None:
    scene.server_options["slow"] = KeepLatest(key=lambda *args: scene.fire() or "key")


class Fires(Service):
    def __init__(self, scene: Scene, at: str) -> None:
        self.scene, self.at = scene, at

    @method
    def served(self) -> None: ...

    async def on_open(self) -> Any:
        return await self.scene.fire_later() if self.at == "on_open" else None

    def on_close(self, info: Any) -> Any:
        return self.scene.fire() if self.at == "on_close" else None


def in_service(at: str, resumes: bool | None) -> None:
    @hook(f"service: {at}", resumes=resumes)
    def service(scene: Scene) -> None:
        def factory() -> Any:
            return (scene.fire() if at == "factory" else None) or Fires(scene, at)

        scene.attach = lambda: scene.server.add_service(Fires, factory)


in_service("factory", False)
in_service("on_open", False)
in_service("on_close", None)


class Identity:
    """Who somebody is, for the application."""

    def __init__(self, scene: Scene, use: str) -> None:
        self._scene, self._use = scene, use

    def _fires(self, use: str) -> Any:
        return self._scene.fire() if use == self._use else None

    def __repr__(self) -> Any:
        return self._fires("repr") or FIRST

    def __eq__(self, other: object) -> Any:
        return self._fires("eq") or isinstance(other, Identity)

    def __hash__(self) -> Any:
        return self._fires("hash") or 1


def of_principal(use: str, resumes: bool | None) -> None:
    @hook(f"principal: {use}", resumes=resumes)
    def principal(scene: Scene) -> None:
        def identify(handshake: Handshake) -> None:
            handshake.principal = Identity(scene, use) if handshake.bearer_token == FIRST else OTHER

        scene.attach = lambda: scene.server.on_handshake(identify)


of_principal("repr", None)
of_principal("eq", True)
of_principal("hash", None)


def of_codec(owner: str, use: str) -> None:
    @hook(f"{owner}: codec, {use}")
    def codec(scene: Scene) -> None:
        scene.codec = MsgpackCodec()
        made: Any = MsgpackCodec()
        inner = getattr(made, use)
        setattr(made, use, lambda value: scene.fire() or inner(value))
        getattr(scene, f"{owner}_options")["codec"] = made


for side in ("server", "client"):
    of_codec(side, "encode")
    of_codec(side, "decode")


class FiringStore:
    def __init__(self, scene: Scene, step: str) -> None:
        self._inner, self._scene, self._step = MemoryStore(), scene, step

    def __getattr__(self, name: str) -> Any:
        inner = getattr(self._inner, name)

        async def step(*args: Any, **options: Any) -> Any:
            return await self._scene.fire_later() or await inner(*args, **options)

        return step if name == self._step else inner


def of_store(step: str) -> None:
    @hook(f"store: {step}")
    def store(scene: Scene) -> None:
        scene.server_options["store"] = FiringStore(scene, step)


of_store("read")
of_store("append")


def of_log(name: str, least: int, spoil: Callable[[logging.Handler, Callable[[Any], Any]], object]) -> None:
    """Add a handler of the log, which ``spoil`` makes fire for lines of at least a level."""

    @hook(f"log: {name}")
    def log(scene: Scene) -> None:
        handler = logging.Handler(least)
        handler.emit = lambda record: None  # type: ignore[method-assign]
        spoil(handler, lambda record: scene.fire() or True)
        logging.getLogger("wsrpc").addHandler(handler)


of_log("filter", logging.DEBUG, logging.Handler.addFilter)
of_log("filter, for a warning", logging.WARNING, logging.Handler.addFilter)
of_log("handler", logging.DEBUG, lambda handler, function: setattr(handler, "emit", function))
of_log("handler, for a warning", logging.WARNING, lambda handler, function: setattr(handler, "emit", function))

# ---------------------------------------------------------------- the story

CELLS = [
    (name, deed, resumes)
    for name in HOOKS
    for deed in DEEDS
    for resumes in ((True, False) if deed == "raises" and name not in RESUMES else (RESUMES.get(name, True),))
]


async def ended(call: Callable[..., Awaitable[Any]], *args: Any) -> BaseException | None:
    """Make a call, wait for its end, and return what it raises."""
    try:
        async with asyncio.timeout(5.1):  # a session waits for its client for 5 s
            await call(*args)
    except (TimeoutError, KeyboardInterrupt):
        raise
    except BaseException as exc:
        return exc
    return None


@asynccontextmanager
async def begun(scene: Scene, limits: Limits) -> AsyncGenerator[Client]:
    """Both ends of the scene, and another client."""
    scene.begin(limits)
    async with Client("ws://server/", dial=scene.line.dial, auth=OTHER, codec=scene.codec) as other:
        try:
            yield other
        finally:
            scene.armed = False
            await asyncio.gather(*scene.closing, return_exceptions=True)
            await scene.client.close()
            await scene.server.close()


@pytest.mark.parametrize(("name", "deed", "resumes"), CELLS)
async def test_nothing_is_left_between_two_states(
    name: str, deed: str, resumes: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG, "wsrpc")
    unraisable: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda arguments: unraisable.append(arguments.exc_value))
    scene = Scene(deed)
    HOOKS[name](scene)
    raised: list[BaseException | None] = []
    limits = Limits(close_timeout=1.0, open_timeout=2.0, replay_bytes=2**20 if resumes else 0)
    async with begun(scene, limits) as other:
        client, server = scene.client, scene.server
        await client.connect()
        rooms = [room.name for room in server.rooms if room.name not in LATE]
        for room in rooms:
            await client.room(room).join()
        parked = asyncio.ensure_future(client.request("park"))
        await until(lambda: scene.peers and scene.peers[0].active)
        scene.armed = True
        scene.line.connections[1][1].abort()
        await until(lambda: scene.done or client.state == "idle" or len(scene.line.connections) > 2)
        raised.append(await ended(client.request, "echo", 1))
        raised.append(await ended(client.request, "act"))
        for peer in scene.peers:
            raised.append(await ended(peer.request, "add", 1, 2))
        for room in rooms:
            raised.append(await ended(server.room(room).emit, "said", 1))
        for room in (*rooms, *LATE, "unknown"):
            raised.append(await ended(client.room(room).join))
        if "on_presence" in name:
            await until(lambda: scene.done, limit=BATCHED + 0.01)
        scene.go.set()
        raised.append(await ended(asyncio.wait_for, parked, 20))
        await asyncio.gather(*scene.closing, return_exceptions=True)
        assert await other.request("echo", 2) == 2
        if client.state not in ("idle", "closed"):
            assert await client.request("echo", 3) == 3
        async with asyncio.timeout(0.3):
            await server.close(drain_timeout=10 if "on_drain" in name else 0)
            await client.close()
        assert client.state == "closed" and server.peers == ()
        assert scene.done
    logged = [record for record in caplog.records if MISTAKE in f"{record.getMessage()} {record.exc_text}"]
    told = [each for each in (*raised, *unraisable, *logged) if MISTAKE in str(each) or each in logged]
    if deed in RAISES and name not in SHOWN:
        assert told and len(unraisable) == (name.startswith("log"))
        assert len(logged) <= 1 or name.startswith("store")  # the store fails, and what it was asked for
