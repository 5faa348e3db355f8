"""Chats for pages that use the AI SDK: ``useChat`` with its default transport, unmodified, and ``resume: true``.

See the guide "useChat, AG-UI".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from wsrpc import Server, WsrpcError
from wsrpc.adapting import Asked, ChatProtocol, ChatRoutes, ChatRun

from .asgi import RoutesApplication

if TYPE_CHECKING:
    from aiohttp import web

__all__ = ["add_chat", "chat"]

_CHUNKS = """
    abort custom error file finish finish-step message-metadata reasoning-delta reasoning-end reasoning-file
    reasoning-start reset-step source-document source-url start start-step steering-message text-delta text-end
    text-start tool-approval-request tool-approval-response tool-input-available tool-input-delta
    tool-input-error tool-input-start tool-output-available tool-output-denied tool-output-error
"""
CHUNKS = frozenset(_CHUNKS.split())
"""The types of the chunks that version 7 knows, apart from ``data-…``. It refuses any other."""


def chat(server: Server, event: str, *, state: Mapping[str, Any] | None = None) -> RoutesApplication:
    """Return an ASGI application for ``useChat``: ``Route("/api/chat{path:path}", chat(server, "answer"))``.

    The handler has ``keep=``, without ``scope=``, and one parameter, which is the body of the request: a dict with
    ``id``, ``messages``, ``trigger`` and what the page adds. It yields texts, or the protocol's own chunks as dicts
    with a ``type``. A type that the AI SDK does not know ends the response with an error, and the log says which.

    A POST starts a run, or joins the latest one if it answers the same last message, also when it is done; a GET of
    ``ID/stream`` joins the latest run while it goes on, from its first word, and is otherwise 204; a DELETE of
    ``ID/stream`` stops all that go on. A client that aborts only stops reading. A chat belongs to the principal.

    ``WsrpcTransport`` of ``aisdk.js`` reads the same runs over the connection of a page's client. It asks for them by
    the request ``EVENT.aisdk``, which this adds to the server.

    Args:
        event: the event of the handler: ``"event"``, or ``"channel:event"`` on a named channel.
        state: as for `wsrpc_adapters.asgi.asgi`.
    """
    return RoutesApplication(server, state or {}, ChatRoutes(server, event, PROTOCOL))


def add_chat(
    app: web.Application, path: str, server: Server, event: str, *, state: Mapping[str, Any] | None = None
) -> None:
    """Add the URLs of `chat` to an aiohttp application: ``add_chat(app, "/api", server, "answer")``."""
    from .aiohttp import add_routes

    add_routes(app, path, ChatRoutes(server, event, PROTOCOL), state)


def read(body: dict[str, Any]) -> Asked:
    last = body["messages"][-1]
    answer, before = (last["id"], chunks_of(last["parts"])) if last["role"] == "assistant" else (None, [])
    return Asked(body["id"], last, answer, "", body.get("trigger") == "regenerate-message", before)


def chunks_of(parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the chunks of a message that is continued, for a page that rebuilds it, and calls no tool again."""
    found: list[dict[str, Any]] = []
    for number, part in enumerate(parts):
        kind = part["type"]
        if kind in ("text", "reasoning"):
            id = f"before-{number}"
            found.append({"type": f"{kind}-start", "id": id})
            found += [{"type": f"{kind}-delta", "id": id, "delta": part["text"]}, {"type": f"{kind}-end", "id": id}]
        elif "toolCallId" in part:
            call, is_dynamic = {"toolCallId": part["toolCallId"]}, kind == "dynamic-tool"
            name = part["toolName"] if is_dynamic else kind.removeprefix("tool-")
            found.append({"type": "tool-input-start", **call, "toolName": name, "dynamic": is_dynamic})
            found.append({"type": "tool-input-delta", **call, "inputTextDelta": json.dumps(part.get("input"))})
            if part["state"] == "output-available":
                found.append({"type": "tool-output-available", **call, "output": part["output"]})
            elif part["state"] == "output-error":
                found.append({"type": "tool-output-error", **call, "errorText": part["errorText"]})
        else:
            found.append({"type": "start-step"} if kind == "step-start" else part)
    return found


class Writer:
    """The chunks of one run. A text may have several parts, one after another."""

    def __init__(self, chat: str, run: ChatRun) -> None:
        self._start = [{"type": "start", "messageId": run.answer}, *run.before]
        self._texts = 0
        self._in_text = self._finished = False

    def start(self) -> list[dict[str, Any]]:
        # Of a message that it continues, the results of tools belong to the step before.
        return [*self._start, {"type": "start-step"}]

    def write(self, item: Any) -> list[dict[str, Any]]:
        if isinstance(item, str):
            begun = [] if self._in_text else [{"type": "text-start", "id": f"text-{self._texts}"}]
            self._in_text = True
            return [*begun, {"type": "text-delta", "id": f"text-{self._texts}", "delta": item}]
        kind: Any = item.get("type") if item.__class__ is dict else None
        if not isinstance(kind, str) or (kind not in CHUNKS and not kind.startswith("data-")):
            raise ValueError(f"a text, or a chunk with a type of the AI SDK, was expected; got {kind or item!r}")
        self._finished = self._finished or kind == "finish"
        return [*self._text_end(), item]

    def end(self, error: WsrpcError | None) -> list[dict[str, Any]]:
        last: dict[str, Any] = {"type": "finish"}
        if error is not None:
            stopped = getattr(error, "code", None) == "wsrpc.stopped"
            last = {"type": "abort"} if stopped else {"type": "error", "errorText": str(error)}
        return [*self._text_end(), *([] if error is None and self._finished else [last])]

    def _text_end(self) -> list[dict[str, Any]]:
        if not self._in_text:
            return []
        self._in_text = False
        self._texts += 1
        return [{"type": "text-end", "id": f"text-{self._texts - 1}"}]


PROTOCOL = ChatProtocol("aisdk", read, Writer, [("x-vercel-ai-ui-message-stream", "v1")], b"data: [DONE]\n\n")
