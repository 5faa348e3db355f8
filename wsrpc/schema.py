"""Description of the events of a server or client as data, with their parameters and results as JSON Schema.

`describe` reads the signatures of the registered handlers. `wsrpc.typescript` turns the description into declarations,
and msgspec into JSON::

    msgspec.json.encode(wsrpc.schema.describe(server))
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import msgspec

from ._client.client import Client
from ._handlers.compiled import Handler
from ._handlers.introspection import Parameter, Result, Role, result_of, without_partials
from ._handlers.registration import Router, registry_of
from ._schema.definitions import Form
from ._schema.json_types import Described, schemas_of
from ._server.server import Server

__all__ = ["Description", "EventSchema", "Kind", "ParameterSchema", "describe"]

Kind = Literal["value", "stream", "upload", "exchange", "conversation"]
"""The kind of answer to a request of an event.

- ``"value"``: a value (``result``)
- ``"stream"``: a channel on which items arrive (``items``)
- ``"upload"``: a channel to which the caller sends items (``sends``) and whose end is answered (``result``)
- ``"exchange"``: a channel with items in both directions
- ``"conversation"``: a channel for events and requests
"""


class ParameterSchema(msgspec.Struct, omit_defaults=True, frozen=True):
    """A parameter that gets its value from the caller. If ``rest`` is true, it takes all further arguments."""

    name: str
    schema: dict[str, Any]
    optional: bool = False
    rest: bool = False


class EventSchema(msgspec.Struct, omit_defaults=True, frozen=True):
    """An event with a handler. ``channel`` is None for the main channel; ``doc`` is the docstring of the handler.

    An empty schema stands for any value. ``notes`` say which types have no schema, and why.
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
    """All events by name, those of the main channel first, and the definitions that ``{"$ref": ...}`` refers to.

    A type with defaults that is both sent and returned has two definitions: ``Cup``, with all its fields, as it comes
    back, and ``CupInput`` as it may be sent.
    """

    events: tuple[EventSchema, ...]
    definitions: dict[str, dict[str, Any]] = msgspec.field(name="$defs")


def describe(registered: Server | Client | Router, /) -> Description:
    """Describe the events that ``registered`` has handlers for, including its channels, services and included routers.

    The same registrations give the same description, in whatever order they were made. Injected parameters (`Peer`,
    `Context`) are left out. A type without a schema never makes this raise: its schema is empty, and the event's
    ``notes`` say why.

    Raises:
        TypeError: it is not a server, client or router.
    """
    given: Any = registered
    if not isinstance(given, Server | Client | Router):
        raise TypeError(f"describe() takes a Server, a Client or a Router, got {given!r}")
    drafts = [
        _draft(channel, event, handler)
        for channel, event, handler in sorted(_handlers(registered), key=lambda found: (found[0] or "", found[1]))
    ]
    types = [each for draft in drafts for each in draft.types]
    schemas, definitions = schemas_of(types, hooked=registry_of(registered).dec_hook is not None)
    described = iter(schemas)
    events = [_finished(draft, described) for draft in drafts]
    return msgspec.convert(_writable(msgspec.to_builtins(Description(tuple(events), definitions))), Description)


def _writable(value: Any) -> Any:
    """Return ``value`` with ``?`` for each half of a surrogate pair, which cannot be encoded."""
    if value.__class__ is str:
        return value.encode(errors="replace").decode()
    if value.__class__ in (list, tuple):
        return [_writable(item) for item in value]
    if value.__class__ is dict:
        return {_writable(key): _writable(item) for key, item in value.items()}
    return value


def _handlers(registered: Any) -> Iterator[tuple[str | None, str, Handler]]:
    for channel, scope in registry_of(registered).scopes.items():
        if isinstance(channel, int):  # raw messages
            continue
        for event, handler in {**scope.handlers, **scope.once}.items():
            yield channel, event, handler


class _Draft(NamedTuple):
    """An event before its types have schemas."""

    channel: str | None
    event: str
    kind: Kind
    doc: str
    parameters: tuple[Parameter, ...]
    types: list[tuple[Any, Form]]
    """Each type that needs a schema, with the form of the schema: the types of the parameters, of the items that the
    caller sends, and of the result or of the items that it gets."""
    notes: list[str]


_KINDS: dict[Role, Kind] = {
    Role.CONVERSATION: "conversation",
    Role.UPLOAD: "upload",
    Role.EXCHANGE: "exchange",
}
"""The kinds of answers that do not depend on the result of the handler."""


def _draft(channel: str | None, event: str, handler: Handler) -> _Draft:
    notes: list[str] = []
    try:
        given = result_of(handler.function)
    except TypeError as exc:
        given = Result("value")
        notes.append(str(exc))
    kind = _KINDS.get(handler.facts.role, "conversation" if given.kind == "channel" else given.kind)
    parameters = tuple(p for p in handler.facts.parameters if p.source in ("wire", "rest"))
    sent = (*parameters, *(p for p in handler.facts.parameters if p.source == "stream"))
    types: list[tuple[Any, Form]] = [(p.type, "sent") for p in sent]
    if kind != "conversation":
        types.append((given.type, "given"))
    return _Draft(channel, event, kind, _doc(handler.function), parameters, types, notes)


def _doc(function: Any) -> str:
    function = without_partials(function)
    if isinstance(function, type):
        # Only its own docstring: not that of a base class, and not the one that a dataclass generates.
        doc = inspect.cleandoc(vars(function).get("__doc__") or "")
        doc = "" if doc.startswith(f"{function.__name__}(") else doc
    else:
        doc = inspect.getdoc(function if inspect.isroutine(function) else type(function).__call__) or ""
    return doc


def _finished(draft: _Draft, described: Iterator[Described]) -> EventSchema:
    notes = draft.notes
    parameters: list[ParameterSchema] = []
    for parameter in draft.parameters:
        schema, found = next(described)
        rest = parameter.source == "rest"
        parameters.append(ParameterSchema(parameter.name, schema, not parameter.required and not rest, rest))
        notes += [f"parameter {parameter.name!r}: {note}" for note in found]
    fields: dict[str, Any] = {}
    if draft.kind in ("upload", "exchange"):
        fields["sends"], found = next(described)
        notes += [f"what is sent: {note}" for note in found]
    if draft.kind != "conversation":
        name = "items" if draft.kind in ("stream", "exchange") else "result"
        fields[name], found = next(described)
        notes += [f"{name}: {note}" for note in found]
    return EventSchema(
        draft.event, draft.kind, draft.channel, draft.doc, tuple(parameters), notes=tuple(notes), **fields
    )
