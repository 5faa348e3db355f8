"""`openapi`: the URLs that ``routes()`` of an adapter serves, as an OpenAPI 3.1 document."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple
from urllib.parse import quote

import msgspec

from .._base.http_statuses import STATUSES
from .components import (
    ERROR,
    ERROR_NAME,
    STRING,
    Info,
    about,
    deprecation,
    legal_name,
    object_of,
    schema_ref,
    with_components,
)
from .definitions import UNIT, Schema, objects, rebuilt
from .description import Description, EventSchema, Kind

ABOUT = """\
The body of a request has the arguments by name, or is an array of them in order. Headers that begin with `Wsrpc-Meta-`
become metadata. The status of an error depends on its code."""
NUMBER: Schema = {"type": "number", "minimum": 0}
COUNT: Schema = {"type": "integer", "minimum": 0}
POSITION: Schema = {"type": ["string", "null"]}
EVENT_STREAM = {"text/event-stream": {"schema": STRING}}


class Served(NamedTuple):
    """What ``routes()`` serves: the names of events, on a named channel ``"channel:event"``, and of rooms."""

    calls: Iterable[str]
    runs: Iterable[str]
    rooms: Iterable[str]
    """Patterns are among them."""


def _parameter(place: str, name: str, text: str, schema: Schema = STRING) -> dict[str, Any]:
    return {"name": name, "in": place, "required": place == "path", "description": text, "schema": schema}


PARAMETERS = {
    "once": _parameter("header", "Idempotency-Key", "The handler runs once for all requests with this key."),
    "id": _parameter("header", "Idempotency-Key", "The id of the message: the same one is the same message."),
    "timeout": _parameter("header", "Wsrpc-Timeout", "Seconds until the response.", NUMBER),
    "key": _parameter("path", "key", "The key of the run."),
    "args": _parameter("query", "args", "The arguments, as JSON, if the key has a scope that depends on them."),
    "after": _parameter("query", "after", "Continue after this position."),
    "last_id": _parameter("header", "Last-Event-ID", "Continue after this server-sent event. It overrides `after`."),
    "wait": _parameter("query", "wait", "Respond with JSON, after at most so many seconds.", NUMBER),
    "last": _parameter("query", "last", "Begin with so many of the last events.", COUNT),
}
FAILED = "WsrpcFailed"
ROOM_EVENT = object_of("event args", event=STRING, args={"type": "array"}, channel=STRING)
ROOM: dict[str, Any] = {"events": {"type": "array", "items": ROOM_EVENT}, "position": POSITION, "state": {}}
OWN_SCHEMAS: dict[str, Schema] = {
    ERROR_NAME: ERROR,
    FAILED: object_of("error", error=schema_ref(ERROR_NAME)),
    "WsrpcRoom": object_of("events position complete", **ROOM, complete={"type": "boolean"}),
}
"""The schemas that do not depend on the events."""
RETRY_AFTER: dict[int, Any] = {each: {"headers": {"Retry-After": {"schema": COUNT}}} for each in (429, 503)}
FAILED_BODY = {"application/json": {"schema": schema_ref(FAILED)}}
FAILURES = {
    str(status): {"description": f"`{code}`: {meaning}", "content": FAILED_BODY, **RETRY_AFTER.get(status, {})}
    for status, (code, meaning) in STATUSES.items()
    if status != 405  # of an operation that is in the document
}
BODILESS, READS = ("408", "413"), ("408", "413", "422")
"""The statuses that requests without a body do not have, and those that readers of a room do not have."""


def openapi(description: Description, served: Served, info: Info, leave_out: Callable[[str], None]) -> dict[str, Any]:
    """Return the OpenAPI document of the URLs for ``served``.

    Args:
        leave_out: is called with a sentence for each event that has no operation.
    """
    description = with_components(description, OWN_SCHEMAS)
    found = {(event.channel, event.event): event for event in description.events}
    schemas = {**description.definitions, **OWN_SCHEMAS}
    paths: dict[str, Any] = {}
    bodies: dict[str, Any] = {}

    def event_of(name: str, kinds: tuple[Kind, ...]) -> EventSchema | None:
        channel, _, rest = name.rpartition(":")
        event = found.get((channel or None, rest))
        if event is None:
            leave_out(f"{name}: not in the document, because no handler of this name is described")
        elif event.kind not in kinds:
            leave_out(f"{name}: not in the document, because this URL is not for handlers of the kind {event.kind!r}")
        else:
            return event
        return None

    def body_of(event: EventSchema, name: str) -> dict[str, Any]:
        """Return the keywords of a request with the arguments by name, which calls and runs share."""
        if event.parameters and name not in bodies:
            key = legal_name(f"{name}.arguments", schemas)
            schemas[key] = _arguments(event)
            bodies[name] = {"required": bool(schemas[key]["required"]), **_json("The arguments.", schema_ref(key))}
        return {**deprecation(event), **({"requestBody": bodies[name]} if event.parameters else {})}

    for name in sorted(served.calls):
        if (event := event_of(name, ("value",))) is not None:
            paths[f"/call/{quote(name, safe='/:')}"] = {"post": _call(event, name, body_of(event, name))}
    for name in sorted(served.runs):
        if (event := event_of(name, ("value", "stream"))) is not None:
            key = legal_name(f"Run.{name}", schemas)
            schemas[key] = _items_of(event)
            run = _run(event, name, schema_ref(key), body_of(event, name))
            paths[f"/runs/{quote(name, safe='/:')}/{{key}}"] = run
    if rooms := sorted(served.rooms):
        paths["/rooms/{room}"] = {"get": _room(rooms)}
    used: set[str] = set()
    for operation in (operation for path in paths.values() for operation in path.values()):
        operation["operationId"] = legal_name(operation["operationId"], used)
        used.add(operation["operationId"])
    parts: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": info.title, "version": info.version, "description": ABOUT},
        "servers": [{"url": (info.url or "").rstrip("/") or "/"}],
        "paths": paths,
        "security": [{}, {"bearer": []}],
        "components": {
            "schemas": schemas,
            "parameters": PARAMETERS,
            "responses": FAILURES,
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
    }
    document: dict[str, Any] = rebuilt(parts, _readable)
    _keep_used(document["components"], paths)
    return document


def _keep_used(components: dict[str, dict[str, Any]], paths: dict[str, Any]) -> None:
    """Remove the components to which nothing refers."""
    kinds = ("schemas", "parameters", "responses")
    by_ref = {f"#/components/{kind}/{name}": (kind, name) for kind in kinds for name in components[kind]}
    todo: list[Any] = [paths]
    while todo:
        for ref in [str(each.get("$ref")) for each in objects(todo.pop())]:
            if (place := by_ref.pop(ref, None)) is not None:
                todo.append(components[place[0]][place[1]])
    for kind, name in by_ref.values():
        del components[kind][name]


def _operation(name: str, tag: str, parameters: str, responses: dict[str, Any], **more: Any) -> dict[str, Any]:
    refs = [{"$ref": f"#/components/parameters/{each}"} for each in parameters.split()]
    never = READS if tag == "rooms" else () if "requestBody" in more else BODILESS
    failures = {status: {"$ref": f"#/components/responses/{status}"} for status in FAILURES if status not in never}
    return {"operationId": name, "tags": [tag], **more, "parameters": refs, "responses": {**responses, **failures}}


def _json(text: str, schema: Schema, others: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"description": text, "content": {"application/json": {"schema": schema}, **(others or {})}}


def _arguments(event: EventSchema) -> Schema:
    """Return the schema of an object with the arguments of an event by name."""
    items = {p.name: {"type": "array", "items": p.schema} if p.rest else p.schema for p in event.parameters}
    required = [p.name for p in event.parameters if not (p.optional or p.rest)]
    return {"type": "object", "properties": items, "required": required, "additionalProperties": False}


def _call(event: EventSchema, name: str, body: dict[str, Any]) -> dict[str, Any]:
    result = {"200": _json("The result.", event.result or {})}
    call = {"summary": f"Call {name}.", **about(event), **body}
    return _operation(f"call_{name}", "calls", "once timeout" if event.keep else "timeout", result, **call)


def _items_of(event: EventSchema) -> Schema:
    """Return the schema of the items of a run. A result is the only item."""
    item = (event.result if event.kind == "value" else event.items) or {}
    states = {"enum": ["running", "ended", "failed"]}
    items = {"type": "array", "items": item}
    return object_of("state items position", state=states, items=items, position=POSITION, error=schema_ref(ERROR_NAME))


def _run(event: EventSchema, name: str, so_far: Schema, body: dict[str, Any]) -> dict[str, Any]:
    running = {"202": _json("The handler still runs.", so_far)}
    responses = {
        "200": _json("The items so far, or server-sent events with the items.", so_far, EVENT_STREAM),
        "204": {"description": "The run has ended, and there are no more items."},
    }
    started = "key after last_id wait timeout"
    stopped = {"204": {"description": "It stops."}}
    start = {"summary": f"Start {name}, or join its run.", **about(event), **body}
    message = _json("A message for the handler.", event.sends or {})
    told = {"204": {"description": "The handler has read it."}}
    more = {"summary": "Send the run a message.", "requestBody": {"required": True, **message}}
    sent = {"patch": _operation(f"send_{name}", "runs", "key args id timeout", told, **more)}
    return {
        **(sent if event.sends is not None else {}),
        "post": _operation(f"start_{name}", "runs", started, {**responses, **running}, **start),
        "get": _operation(f"read_{name}", "runs", f"{started} args", responses, summary="Read the run."),
        "delete": _operation(f"stop_{name}", "runs", "key args", stopped, summary="Stop the run."),
    }


def _room(rooms: list[str]) -> dict[str, Any]:
    text = f"The name of the room: {', '.join(rooms)}. `*`, `?` and `[...]` are patterns."
    responses = {"200": _json("The events so far, or server-sent events.", schema_ref("WsrpcRoom"), EVENT_STREAM)}
    read = _operation("read_room", "rooms", "last after last_id wait", responses, summary="Read a room.")
    read["parameters"].insert(0, _parameter("path", "room", text))
    return read


def _readable(made: dict[str, Any], key: str) -> dict[str, Any]:
    """Write an object with keywords in the way that tools can read.

    They want ``items``, which must not be false, and refuse keywords that neither they know nor begin with ``x-``. What
    has a ``default`` is required in the types of openapi-typescript, and other clients would send the default of today.
    """
    if made.get("items") is False and "maxItems" in made:  # which says the same
        del made["items"]
    if made.get("type") == "array" and "prefixItems" not in made:
        made.setdefault("items", {})
    said = list[str]()
    if isinstance(unit := made.get(UNIT), str):
        made[f"x-{UNIT}"] = made.pop(UNIT)
        said.append(f"Unit: {unit}")
    if "default" in made:
        said.append(f"Default: {msgspec.json.encode(made.pop('default')).decode()}")
    return made | {"description": "\n".join([*filter(None, [made.get("description")]), *said])} if said else made
