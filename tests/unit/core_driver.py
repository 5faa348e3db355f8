"""Driving one peer from a script, for the tests of the symmetric core."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from waiting import settled

from wsrpc import CloseInfo, ConnectionLost, Limits, Peer
from wsrpc._base.scheduler import LoopScheduler
from wsrpc._core.api.peer import current_of
from wsrpc._core.handlers.registry import Registry
from wsrpc._core.session.peer_owner import PeerOwner
from wsrpc._core.session.session_end import Decision
from wsrpc._core.wire.settings import Settings, make_settings
from wsrpc.codecs import Codec, JsonCodec
from wsrpc.testing import ScriptedTransport
from wsrpc.transport import ConnectionInfo

ABORTED = {"message": "Request aborted"}


async def turns(count: int = 10) -> None:
    """Let the event loop run what is ready, ``count`` times over. No time passes, so nothing depends on speed."""
    for _ in range(count):
        await asyncio.sleep(0)


def start(coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    return asyncio.get_running_loop().create_task(coroutine)


def left_of_channels(peer: Peer) -> tuple[object, object, int]:
    """The channels of handlers, those that are read by credit, and the memory of unread messages."""
    channels = current_of(peer).channels
    return channels.undelivered, channels.credited, current_of(peer).named_channels.unread_bytes


class Played(ScriptedTransport):
    """A transport that takes so many messages, and that closes when the test says so.

    After these messages it refuses each, as one whose connection has ended, until it reports that.
    """

    def __init__(self, info: ConnectionInfo | None = None, takes: int = 2**53) -> None:
        super().__init__(info)
        self.takes = takes
        self.may_close: asyncio.Event | None = None
        self.survives = False
        """Whether it was told that the session survives it."""

    def session_survives(self) -> None:
        self.survives = True

    def send(self, payload: bytes, text: bool = True, /) -> None:
        self.takes -= 1
        if self.takes < 0:
            raise ConnectionLost(1006, "broken", "not_sent")
        super().send(payload, text)

    async def close(self, code: int | None = 1000, reason: str = "") -> None:
        if self.may_close is not None:
            await self.may_close.wait()
        await super().close(code, reason)


class Driven:
    """A peer on a scripted transport. The test plays the other side."""

    def __init__(
        self,
        *,
        dialer: bool = False,
        limits: Limits | None = None,
        codec: Codec | None = None,
        expose_errors: bool | Callable[[BaseException], bool] = False,
        shared: Registry | None = None,
        keeps_offline: bool = False,
        bind: bool = True,
        extensions: bool = False,
        can_resume: bool = False,
        owner: PeerOwner | None = None,
    ) -> None:
        self.transport = Played()
        if extensions:
            settings = make_settings(limits, codec, expose_errors, extensions)
        else:
            settings = Settings(codec or JsonCodec(), limits or Limits(), expose_errors)
        self.peer = Peer(
            settings,
            dialer=dialer,
            shared=shared,
            loop=LoopScheduler(),
            keeps_offline=keeps_offline,
            can_resume=can_resume,
            owner=owner,
        )
        if bind:
            self.peer.bind(self.transport)

    def feed(self, *messages: Any) -> None:
        """One read that brings ``messages``."""
        self.transport.feed(*messages)

    def raw(self, payload: bytes | bytearray, text: bool = True) -> None:
        """One read that brings exactly these bytes."""
        assert self.transport._receiver is not None
        self.transport._receiver.receive(payload, text)
        self.transport._receiver.read_ended()

    def take(self) -> list[Any]:
        return self.transport.pop_sent()

    def expect(self, *messages: Any) -> None:
        self.transport.expect(*messages)

    async def fed(self, *messages: Any) -> list[Any]:
        """Feed, let everything happen, and return what was sent."""
        self.feed(*messages)
        await settled()
        return self.take()

    async def asks(self, event: str, *args: Any, **options: Any) -> tuple[asyncio.Task[Any], int]:
        """Let the peer make a request; returns its task and its id; what was sent before is dropped."""
        task = start(self.peer.request(event, *args, **options))
        await settled()
        sent = self.take()[-1]
        assert sent["a"] == [event, *args]
        return task, sent["i"]

    def rebind(self) -> Played:
        """Bind a fresh transport, which is the one that is fed from then on."""
        self.transport = Played()
        self.peer.bind(self.transport)
        return self.transport

    def assert_empty(self) -> None:
        """Nothing of any call is left in the peer."""
        peer = self.peer
        assert peer.pending == 0
        assert peer.active == 0
        inside = current_of(peer)
        assert inside.dispatcher.active == {}
        assert peer.stats().waiting == 0
        assert inside.dispatcher.calls.tasks() == set()
        assert not inside.outbox.callers_must_wait
        assert left_of_channels(peer) == ({}, {}, 0)

    @property
    def ignored(self) -> dict[str, int]:
        return dict(self.peer.ignored)

    @property
    def close_code(self) -> int | None:
        return None if self.transport.closed is None else self.transport.closed.code


class ComesBack(PeerOwner):
    """A client that dials again, unless it was closed."""

    peer: Peer

    def will_reconnect(self) -> bool:
        return not current_of(self.peer).session.last_close.user_closed

    def decide(self, info: CloseInfo, /) -> Decision:
        return Decision(keeps=True)


def redialing(**options: Any) -> Driven:
    """The peer of a client that dials again: what waits outlives a drop. `Driven.rebind` is the next connection."""
    owner = ComesBack()
    given: dict[str, Any] = {"dialer": True, "keeps_offline": True, "owner": owner}
    driven = Driven(**given | options)
    owner.peer = driven.peer
    return driven


async def idle(driven: Driven) -> None:
    """Until no handler runs any more, not even one in a thread."""
    while driven.peer.active:
        await settled()


async def closes_with(driven: Driven, code: int) -> None:
    """Assert that the peer ends the connection with ``code``."""
    await settled()
    assert driven.close_code == code
    assert not driven.peer.connected


def said_in(record: logging.LogRecord) -> str:
    """The text of a record, without the peer that a warning names at its end."""
    return re.sub(r" \(peer [^()]*\)$", "", record.getMessage())


def messages(caplog: pytest.LogCaptureFixture, level: int = logging.WARNING) -> list[str]:
    """The texts that were logged at ``level`` or above, without the peers that they name at the end."""
    return [said_in(record) for record in caplog.records if record.levelno >= level]


def rejection(sent: list[Any], i: int) -> dict[str, Any]:
    """The error object of the rejection of request ``i``, which must be the only answer to it."""
    [answer] = [message for message in sent if message.get("i") == i]
    assert set(answer) == {"i", "e", "_"} and answer["_"] == 1, answer
    error: dict[str, Any] = answer["e"]
    assert isinstance(error["message"], str)
    return error


class Blocked:
    """A handler that waits until the test lets it go, and remembers what happened to it."""

    def __init__(self) -> None:
        self.started: list[tuple[Any, ...]] = []
        self.finished: list[tuple[Any, ...]] = []
        self.cancelled: list[object] = []
        self.go = asyncio.Event()

    async def __call__(self, *args: Any) -> Any:
        self.started.append(args)
        try:
            await self.go.wait()
        except asyncio.CancelledError as exc:
            self.cancelled.append(exc.args[0] if exc.args else None)
            raise
        self.finished.append(args)
        return list(args)
