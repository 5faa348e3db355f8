"""Agents for clients of AG-UI, such as its ``HttpAgent`` and CopilotKit, unmodified.

See the guide "useChat, AG-UI".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from wsrpc import Server, WsrpcError
from wsrpc.adapting import Asked, ChatProtocol, ChatRoutes, ChatRun

from .asgi import RoutesApplication

if TYPE_CHECKING:
    from aiohttp import web

__all__ = ["add_agent", "agent"]

_EVENTS = """
    TEXT_MESSAGE_START TEXT_MESSAGE_CONTENT TEXT_MESSAGE_END TEXT_MESSAGE_CHUNK TOOL_CALL_START TOOL_CALL_ARGS
    TOOL_CALL_END TOOL_CALL_CHUNK TOOL_CALL_RESULT STATE_SNAPSHOT STATE_DELTA MESSAGES_SNAPSHOT
    ACTIVITY_SNAPSHOT ACTIVITY_DELTA RAW CUSTOM RUN_FINISHED RUN_ERROR STEP_STARTED STEP_FINISHED
    REASONING_START REASONING_MESSAGE_START REASONING_MESSAGE_CONTENT REASONING_MESSAGE_END
    REASONING_MESSAGE_CHUNK REASONING_END REASONING_ENCRYPTED_VALUE SUBAGENT_STARTED SUBAGENT_FINISHED
    SUBAGENT_ERROR
"""
EVENTS = frozenset(_EVENTS.split())
"""The types of the events that version 1 knows, apart from the first one of a run, which is sent for each reader."""


def agent(server: Server, event: str, *, state: Mapping[str, Any] | None = None) -> RoutesApplication:
    """Return an ASGI application for an ``HttpAgent``: ``Route("/api/agent{path:path}", agent(server, "answer"))``.

    The handler has ``keep=``, without ``scope=``, and one parameter, which is the ``RunAgentInput``: a dict with
    ``threadId``, ``runId``, ``messages``, ``tools``. It yields texts, or the protocol's own events as dicts with a
    ``type``, but not ``RUN_STARTED``. A type that AG-UI does not know ends the response with ``RUN_ERROR``, and the log
    says which.

    A POST starts a run, or joins the latest one while it answers the same last message; so a page that was loaded again
    runs its agent with the messages that are stored. A GET of ``THREAD/stream`` joins the latest
    run while it goes on, from its first word, and is otherwise 204; a DELETE of ``THREAD/stream`` stops all that go on.
    A client that aborts only stops reading. A thread belongs to the principal.

    ``WsrpcAgent`` of ``agui.js`` reads the same runs over the connection of a page's client. It asks for them by the
    request ``EVENT.agui``, which this adds to the server.

    Args:
        event: the event of the handler: ``"event"``, or ``"channel:event"`` on a named channel.
        state: as for `wsrpc_adapters.asgi.asgi`.
    """
    return RoutesApplication(server, state or {}, ChatRoutes(server, event, PROTOCOL))


def add_agent(
    app: web.Application, path: str, server: Server, event: str, *, state: Mapping[str, Any] | None = None
) -> None:
    """Add the URLs of `agent` to an aiohttp application: ``add_agent(app, "/api", server, "answer")``."""
    from .aiohttp import add_routes

    add_routes(app, path, ChatRoutes(server, event, PROTOCOL), state)


def read(body: dict[str, Any]) -> Asked:
    return Asked(body["threadId"], (body["messages"] or [None])[-1], None, body["runId"], again=None)


class Writer:
    """The events of one run. Each text that follows other events is a message of its own."""

    def __init__(self, chat: str, run: ChatRun) -> None:
        self._run = {"threadId": chat, "runId": run.id}
        self._answer = run.answer
        self._texts = 0
        self._in_text = self._finished = False

    def start(self) -> list[dict[str, Any]]:
        return [{"type": "RUN_STARTED", **self._run}]

    def write(self, item: Any) -> list[dict[str, Any]]:
        if self._finished:
            raise ValueError("nothing follows RUN_FINISHED or RUN_ERROR")
        if isinstance(item, str):
            id = f"{self._answer}-{self._texts}"
            begun = [] if self._in_text else [{"type": "TEXT_MESSAGE_START", "messageId": id, "role": "assistant"}]
            self._in_text = True
            return [*begun, {"type": "TEXT_MESSAGE_CONTENT", "messageId": id, "delta": item}] if item else begun
        kind: Any = item.get("type") if item.__class__ is dict else None
        if kind not in EVENTS:
            raise ValueError(f"a text, or an event with a type of AG-UI, was expected; got {kind or item!r}")
        self._finished = kind in ("RUN_FINISHED", "RUN_ERROR")
        return [*self._text_end(), item]

    def end(self, error: WsrpcError | None) -> list[dict[str, Any]]:
        last: dict[str, Any] = {"type": "RUN_FINISHED", **self._run}
        if error is not None:
            code = getattr(error, "code", None)
            last = {"type": "RUN_ERROR", "message": str(error), **({} if code is None else {"code": str(code)})}
        return [*self._text_end(), *([] if self._finished else [last])]

    def _text_end(self) -> list[dict[str, Any]]:
        if not self._in_text:
            return []
        self._in_text = False
        self._texts += 1
        return [{"type": "TEXT_MESSAGE_END", "messageId": f"{self._answer}-{self._texts - 1}"}]


PROTOCOL = ChatProtocol("agui", read, Writer, [], b"")
