"""`openapi`: the URLs that ``routes()`` of an adapter serves, as an OpenAPI 3.1 document."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple
from urllib.parse import quote

from .components import (
    ERROR,
    ERROR_NAME,
    STRING,
    Info,
    about,
    arguments_of,
    deprecation,
    legal_name,
    object_of,
    schema_ref,
    with_components,
)
from .definitions import Schema, rebuilt
from .description import Description, EventSchema, Kind

ABOUT = """\
The body of a request is an array of the arguments. Headers that begin with `Wsrpc-Meta-` become metadata. The status of
an error depends on its code. The response to a request that is refused before it is read may be text."""
NUMBER: Schema = {"type": "number", "minimum": 0}
COUNT: Schema = {"type": "integer", "minimum": 0}
POSITION: Schema = {"type": ["string", "null"]}
EVENTS = {"text/event-stream": {"schema": STRING}}


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
    "timeout": _parameter("header", "Wsrpc-Timeout", "Seconds until the response.", NUMBER),
    "key": _parameter("path", "key", "The key of the run."),
    "args": _parameter("query", "args", "The arguments, as a JSON array, if the key has a scope that depends on them."),
    "after": _parameter("query", "after", "Continue after this position."),
    "last_id": _parameter("header", "Last-Event-ID", "Continue after this server-sent event. It overrides `after`."),
    "wait": _parameter("query", "wait", "Respond with JSON, after at most so many seconds.", NUMBER),
    "last": _parameter("query", "last", "Begin with so many of the last events.", COUNT),
}
FAILED = "WsrpcFailed"
ROOM_EVENT = object_of("event args", event=STRING, args={"type": "array"}, channel=STRING)
OWN: dict[str, Schema] = {
    ERROR_NAME: ERROR,
    FAILED: object_of("error", error=schema_ref(ERROR_NAME)),
    "WsrpcRoom": object_of(
        "events position complete",
        events={"type": "array", "items": ROOM_EVENT},
        position=POSITION,
        complete={"type": "boolean"},
    ),
}
"""The schemas that do not depend on the events."""
FAILURE = {
    "description": "The request has failed. With `Retry-After`, it has not run.",
    "headers": {"Retry-After": {"schema": COUNT}},
    "content": {"application/json": {"schema": schema_ref(FAILED)}, "text/plain": {"schema": STRING}},
}


def openapi(description: Description, served: Served, info: Info, leave_out: Callable[[str], None]) -> dict[str, Any]:
    """Return the OpenAPI document of the URLs for ``served``.

    Args:
        leave_out: is called with a sentence for each event that has no operation.
    """
    description = with_components(description, OWN)
    found = {(event.channel, event.event): event for event in description.events}
    schemas = {**description.definitions, **OWN}
    paths: dict[str, Any] = {}

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

    for name in sorted(served.calls):
        if (event := event_of(name, ("value",))) is not None:
            paths[f"/call/{quote(name, safe='/:')}"] = {"post": _call(event, f"call_{name}")}
    for name in sorted(served.runs):
        if (event := event_of(name, ("value", "stream"))) is not None:
            key = legal_name(f"Run.{name}", schemas)
            schemas[key] = _items_of(event)
            paths[f"/runs/{quote(name, safe='/:')}/{{key}}"] = _run(event, name, schema_ref(key))
    if rooms := sorted(served.rooms):
        paths["/rooms/{room}"] = {"get": _room(rooms)}
    used: set[str] = set()
    for operation in (operation for path in paths.values() for operation in path.values()):
        operation["operationId"] = legal_name(operation["operationId"], used)
        used.add(operation["operationId"])
    parts: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": info.title, "version": info.version, "description": ABOUT},
        **({"servers": [{"url": info.url.rstrip("/")}]} if info.url else {}),
        "paths": paths,
        "security": [{}, {"bearer": []}],
        "components": {
            "schemas": schemas,
            "parameters": PARAMETERS,
            "responses": {"Failure": FAILURE},
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
    }
    document: dict[str, Any] = rebuilt(parts, _readable)
    return document


def _operation(name: str, tag: str, parameters: str, responses: dict[str, Any], **more: Any) -> dict[str, Any]:
    refs = [{"$ref": f"#/components/parameters/{each}"} for each in parameters.split()]
    failure = {"$ref": "#/components/responses/Failure"}
    return {
        "operationId": name,
        "tags": [tag],
        **more,
        "parameters": refs,
        "responses": {**responses, "4XX": failure, "5XX": failure},
    }


def _json(text: str, schema: Schema, others: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"description": text, "content": {"application/json": {"schema": schema}, **(others or {})}}


def _body(event: EventSchema) -> dict[str, Any]:
    arguments = arguments_of(event)
    body = {"required": arguments["minItems"] > 0, **_json("The arguments.", arguments)}
    return {**deprecation(event), "requestBody": body}


def _call(event: EventSchema, name: str) -> dict[str, Any]:
    result = {"200": _json("The result.", event.result or {})}
    return _operation(name, "calls", "once timeout", result, **about(event), **_body(event))


def _items_of(event: EventSchema) -> Schema:
    """Return the schema of the items of a run. A result is the only item."""
    item = (event.result if event.kind == "value" else event.items) or {}
    states = {"enum": ["running", "ended", "failed"]}
    items = {"type": "array", "items": item}
    return object_of("state items position", state=states, items=items, position=POSITION, error=schema_ref(ERROR_NAME))


def _run(event: EventSchema, name: str, so_far: Schema) -> dict[str, Any]:
    running = {"202": _json("The handler still runs.", so_far)}
    responses = {
        "200": _json("The items so far, or server-sent events with the items.", so_far, EVENTS),
        "204": {"description": "The run has ended, and there are no more items."},
    }
    started = "key after last_id wait timeout"
    return {
        "post": _operation(f"start_{name}", "runs", started, {**responses, **running}, **about(event), **_body(event)),
        "get": _operation(f"read_{name}", "runs", f"{started} args", responses, summary="Read the run."),
        "delete": _operation(
            f"stop_{name}", "runs", "key args", {"204": {"description": "It stops."}}, summary="Stop the run."
        ),
    }


def _room(rooms: list[str]) -> dict[str, Any]:
    text = f"The name of the room: {', '.join(rooms)}. `*`, `?` and `[...]` are patterns."
    responses = {"200": _json("The events so far, or server-sent events.", schema_ref("WsrpcRoom"), EVENTS)}
    read = _operation("read_room", "rooms", "last after last_id wait", responses, summary="Read a room.")
    read["parameters"].insert(0, _parameter("path", "room", text))
    return read


def _readable(schema: Schema) -> Schema:
    """Write arrays in the way that generators can read: they want ``items``, which must not be false."""
    if schema.get("items") is False and "maxItems" in schema:  # which says the same
        del schema["items"]
    if schema.get("type") == "array" and "prefixItems" not in schema:
        schema.setdefault("items", {})
    return schema
