"""What can be asked of a server or a client, as data: its events, their parameters and results, as JSON Schema.

`describe` reads the signatures of what is registered. `wsrpc.typescript` makes declarations of it; msgspec makes JSON::

    msgspec.json.encode(wsrpc.schema.describe(server))
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import msgspec

from ._base.names import ChannelRef
from ._client.client import Client
from ._handlers.compiled import Handler
from ._handlers.introspection import Parameter, Result, Role, result_of, without_partials
from ._handlers.registration import Router, registry_of
from ._handlers.registry import Scope
from ._schema.json_types import schemas_of
from ._server.server import Server

__all__ = ["Description", "EventSchema", "Kind", "ParameterSchema", "describe"]

Kind = Literal["value", "stream", "upload", "exchange", "conversation"]
"""What answers a request of an event: a value (``result``); a channel on which items come (``items``); one to which
items are sent (``sends``), and whose end is answered (``result``); one with both; one to talk over."""


class ParameterSchema(msgspec.Struct, omit_defaults=True, frozen=True):
    """A parameter that gets its value from the caller. ``rest``: it takes all further arguments, one by one."""

    name: str
    schema: dict[str, Any]
    optional: bool = False
    rest: bool = False


class EventSchema(msgspec.Struct, omit_defaults=True, frozen=True):
    """An event that has a handler. ``channel`` is None on the main one; ``doc`` is the handler's docstring.

    A schema that says nothing stands for any value. ``notes`` say where a type has no schema, and why.
    """

    event: str
    kind: Kind
    channel: str | None = None
    doc: str = ""
    parameters: tuple[ParameterSchema, ...] = ()
    sends: dict[str, Any] | None = None
    items: dict[str, Any] | None = None
    result: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()


class Description(msgspec.Struct, frozen=True):
    """All events, the main channel's first, by name; and the definitions that ``{"$ref": "#/$defs/..."}`` refers to.

    A type with defaults that is both sent and given is two definitions: ``Cup`` as it comes back, with all its
    fields, and ``CupInput`` as it may be sent.
    """

    events: tuple[EventSchema, ...]
    definitions: dict[str, dict[str, Any]] = msgspec.field(name="$defs")


def describe(registered: Server | Client | Router, /) -> Description:
    """Describe what ``registered`` has handlers for: those of its channels, services and included routers too.

    The same registrations give the same description, in whatever order they were made. Parameters that are injected
    (`Peer`, `Context`) are left out. Nothing that can be registered makes this raise: the schema of what has none
    admits anything, and the event's ``notes`` say so.

    Raises:
        TypeError: this is no server, client or router.
    """
    given: Any = registered
    if not isinstance(given, Server | Client | Router):
        raise TypeError(f"describe() takes a Server, a Client or a Router, got {given!r}")
    drafts = [
        _draft(channel, event, handler)
        for channel, event, handler in sorted(_handlers(registered), key=lambda found: (found[0] or "", found[1]))
    ]
    schemas = schemas_of(
        [tp for draft in drafts for tp in draft.sent],
        [tp for draft in drafts for tp in draft.given],
        hooked=registry_of(registered).dec_hook is not None,
    )
    sent = iter(zip(schemas.sent, schemas.notes[: len(schemas.sent)], strict=True))
    given = iter(zip(schemas.given, schemas.notes[len(schemas.sent) :], strict=True))
    events = [_finished(draft, sent, given) for draft in drafts]
    return msgspec.convert(_writable(msgspec.to_builtins(Description(tuple(events), schemas.definitions))), Description)


def _writable(value: Any) -> Any:
    """The same, with ``?`` for each half of a surrogate pair, which could not be written anywhere."""
    if value.__class__ is str:
        return value.encode(errors="replace").decode()
    if value.__class__ in (list, tuple):
        return [_writable(item) for item in value]
    if value.__class__ is dict:
        return {_writable(key): _writable(item) for key, item in value.items()}
    return value


def _handlers(registered: Any) -> Iterator[tuple[str | None, str, Handler]]:
    registry = registry_of(registered)
    scopes: list[tuple[ChannelRef, Scope]] = [(None, registry.main), *registry.named.items()]
    for channel, scope in scopes:
        if isinstance(channel, int):  # raw messages
            continue
        for event, handler in {**scope.handlers, **scope.once}.items():
            yield channel, event, handler


class _Draft(NamedTuple):
    """An event, and the types that it has schemas for: of parameters and of what is sent; of what is given."""

    channel: str | None
    event: str
    kind: Kind
    doc: str
    parameters: tuple[Parameter, ...]
    sent: list[Any]
    given: list[Any]
    notes: list[str]


def _draft(channel: str | None, event: str, handler: Handler) -> _Draft:
    notes: list[str] = []
    try:
        given = result_of(handler.function)
    except TypeError as exc:
        given = Result("value")
        notes.append(str(exc))
    kind: Kind = "value"
    match handler.role:
        case Role.CONVERSATION:
            kind = "conversation"
        case Role.UPLOAD:
            kind = "upload"
        case Role.EXCHANGE:
            kind = "exchange"
        case Role.RESULT:
            kind = "conversation" if given.kind == "channel" else given.kind
    parameters = tuple(p for p in handler.facts.parameters if p.source in ("wire", "rest"))
    sent = [p.type for p in (*parameters, *(p for p in handler.facts.parameters if p.source == "stream"))]
    return _Draft(
        channel,
        event,
        kind,
        _doc(handler.function),
        parameters,
        sent,
        [] if kind == "conversation" else [given.type],
        notes,
    )


def _doc(function: Any) -> str:
    function = without_partials(function)
    if isinstance(function, type):
        # Its own: not its base class's, and not the one that a dataclass gets if it has none.
        doc = inspect.cleandoc(vars(function).get("__doc__") or "")
        doc = "" if doc.startswith(f"{function.__name__}(") else doc
    else:
        doc = inspect.getdoc(function if inspect.isroutine(function) else type(function).__call__) or ""
    return doc


def _finished(draft: _Draft, sent: Iterator[Any], given: Iterator[Any]) -> EventSchema:
    notes = draft.notes
    parameters: list[ParameterSchema] = []
    for parameter in draft.parameters:
        schema, found = next(sent)
        rest = parameter.source == "rest"
        parameters.append(ParameterSchema(parameter.name, schema, not parameter.required and not rest, rest))
        notes += [f"parameter {parameter.name!r}: {note}" for note in found]
    fields: dict[str, Any] = {}
    if draft.kind in ("upload", "exchange"):
        fields["sends"], found = next(sent)
        notes += [f"what is sent: {note}" for note in found]
    if draft.given:
        name = "items" if draft.kind in ("stream", "exchange") else "result"
        fields[name], found = next(given)
        notes += [f"{name}: {note}" for note in found]
    return EventSchema(
        draft.event, draft.kind, draft.channel, draft.doc, tuple(parameters), notes=tuple(notes), **fields
    )
