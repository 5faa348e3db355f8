"""`asyncapi`: a description as an AsyncAPI 3 document, which shows the JSON messages as they are on the wire.

A channel of the document is the main channel or a named channel: they share one connection. AsyncAPI has the schemas of
JSON Schema Draft 7.
"""

from __future__ import annotations

from typing import Any, Literal
from urllib.parse import urlsplit

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
from .description import Description, EventSchema, Kind, is_answered

Action = Literal["receive", "send"]
Messages = dict[str, dict[str, Any]]

ABOUT = """\
Each message is a JSON object, and a text message of one WebSocket connection, in the protocol of ws-wrapper. A request
has an id `i`, which its response repeats. Messages with `h` are for the channel that a response `opened` has announced.
Ignore objects with `"ws-wrapper": false`."""
INTEGER: Schema = {"type": "integer"}
MESSAGE_ID: Schema = {"type": "integer", "minimum": 1}
FLAG: Schema = {"const": 1}
CONTEXT: Schema = {"type": "object", "description": "Metadata, a key and the remaining time, between wsrpc peers."}


def _message(summary: str, required: str, **properties: Any) -> dict[str, Any]:
    return {"summary": summary, "payload": {**object_of(required, **properties), "additionalProperties": False}}


def _on_channel(summary: str, *arguments: Schema, **more: Any) -> dict[str, Any]:
    """Return a message on an anonymous channel. The first of its arguments is the name of the event."""
    array = {"type": "array", "prefixItems": arguments, "minItems": len(arguments), "maxItems": len(arguments)}
    return _message(summary, "h a", h=MESSAGE_ID, a=array, **more)


def _items(summary: str, item: Schema) -> dict[str, Any]:
    one = object_of("value done", value=item, done={"const": False})
    return _on_channel(summary, {"const": "next"}, {"anyOf": [one, {"type": "array", "items": item}]}, i=MESSAGE_ID)


END_OF_ITEMS = object_of("done", done={"const": True})
SHARED_MESSAGES: Messages = {
    "error": _message("The request has failed.", "i e _", i=MESSAGE_ID, e=schema_ref(ERROR_NAME), _=FLAG),
    "rejection": _message("The request has failed. With `_`, `e` is an error.", "i e", i=MESSAGE_ID, e={}, _=FLAG),
    "cancellation": _message(
        "Nobody waits for the response. With `_`, `x` is an error.", "i x", i=MESSAGE_ID, x={}, _=FLAG
    ),
    "opened": _message(
        "The response is a channel with the id `h`, which is that of the request.", "i h", i=MESSAGE_ID, h=MESSAGE_ID
    ),
    "start": _on_channel("The reader asks for the items.", {"const": "start"}),
    "stop": _on_channel("The reader wants no more items.", {"const": "stop"}),
    "accepted": _message("The response to an item that is a request.", "i", i=MESSAGE_ID, d={"type": "null"}),
    "end": _on_channel(
        "There are no more items. To end an upload, send a request.", {"const": "next"}, END_OF_ITEMS, i=MESSAGE_ID
    ),
    "run": _on_channel("The id of a run, and the number of items that are skipped.", {"const": "run"}, STRING, INTEGER),
    "abort": _message("The channel is closed. With `_`, `x` is an error.", "h x", h=MESSAGE_ID, x={}, _=FLAG),
    "message": _message("An event or request.", "h a", i=MESSAGE_ID, h=MESSAGE_ID, a={"type": "array"}, ctx=CONTEXT),
    "answer": _message("The response to a request.", "i", i=MESSAGE_ID, d={}),
}
"""The messages that do not depend on the event."""

SENT: dict[Kind, str] = {
    "value": "request cancellation sends",
    "stream": "request cancellation start accepted rejection sends abort",
    "upload": "request cancellation sends end abort",
    "exchange": "request cancellation start stop accepted rejection sends end abort",
    "conversation": "request cancellation sends message answer rejection abort",
}
"""What the caller of a request sends."""
REPLIES: dict[Kind, str] = {
    "value": "result",
    "stream": "opened run items end cancellation abort",
    "upload": "opened start stop accepted abort result",
    "exchange": "opened start stop accepted items end cancellation abort",
    "conversation": "opened items message answer cancellation abort",
}
"""What the caller gets, besides errors."""


def asyncapi(description: Description, info: Info) -> dict[str, Any]:
    """Return the AsyncAPI document of an application that has the events of ``description``."""
    description = with_components(description, (ERROR_NAME,))
    events = _Events(info)
    for event in description.events:
        events.add(event, "receive")
    for event in description.emits:
        events.add(event, "send")
    url = urlsplit(info.url or "")
    servers = {"servers": {"server": {"host": url.netloc, "protocol": url.scheme}}} if info.url else {}
    schemas = {**description.definitions, ERROR_NAME: ERROR}
    parts = {
        "asyncapi": "3.0.0",
        "info": {"title": info.title, "version": info.version, "description": ABOUT},
        "defaultContentType": "application/json",
        **servers,
        "channels": events.channels,
        "operations": events.operations,
        "components": {"messages": events.shared, "schemas": schemas},
    }
    document: dict[str, Any] = rebuilt(parts, _as_draft_7)
    return document


class _Events:
    """The channels, operations and messages of a document, for each event."""

    def __init__(self, info: Info) -> None:
        self._address = (urlsplit(info.url).path or "/") if info.url else None
        self._keys: dict[str | None, str] = {}
        """The key in `channels` for the name of each channel."""
        self.channels: dict[str, Any] = {}
        self.operations: dict[str, Any] = {}
        self.shared: Messages = {}
        """Those of `SHARED_MESSAGES` that are used."""

    def add(self, event: EventSchema, action: Action) -> None:
        """Add the operation of an event, with its messages."""
        key = self._channel(event.channel)
        messages: Messages = self.channels[key]["messages"]
        roles = {
            role: legal_name(
                event.event if role == "request" else f"{event.event}.{role}", {*messages, *SHARED_MESSAGES}
            )
            for role in ("request", "result", "items", "sends")
        }
        own = _messages(event, action)
        messages |= {roles[role]: message for role, message in own.items()}

        def uses(names: str) -> dict[str, Any]:
            untold = not (event.events or event.emits)  # what travels in a conversation
            found = [
                name
                for name in names.split()
                if name in own or (name in SHARED_MESSAGES and (untold or name != "message"))
            ]
            for name in found:
                if name in SHARED_MESSAGES:
                    self.shared[name] = SHARED_MESSAGES[name]
                    messages[name] = {"$ref": f"#/components/messages/{name}"}
            refs = [{"$ref": f"#/channels/{key}/messages/{roles.get(name, name)}"} for name in found]
            return {"channel": {"$ref": f"#/channels/{key}"}, "messages": refs}

        name = ".".join([action, *([] if event.channel is None else [event.channel]), event.event])
        operation: dict[str, Any] = {"action": action, "title": event.event, **about(event)}
        if is_answered(event):
            failure = "error" if action == "receive" else "rejection"
            operation |= {**uses(SENT[event.kind]), "reply": uses(f"{REPLIES[event.kind]} {failure}")}
        else:
            operation |= uses("request")
        self.operations[legal_name(name, self.operations)] = operation

    def _channel(self, name: str | None) -> str:
        if name not in self._keys:
            key = self._keys[name] = legal_name("main" if name is None else name, self.channels)
            title = "The main channel" if name is None else f"The channel {name}"
            self.channels[key] = {"address": self._address, "title": title, "messages": {}}
        return self._keys[name]


def _messages(event: EventSchema, action: Action) -> Messages:
    """Return the messages that depend on the event."""
    id = {"i": MESSAGE_ID} if is_answered(event) else {}
    named = {} if event.channel is None else {"c": {"const": event.channel}}
    properties = {**id, **named, "a": arguments_of(event, {"const": event.event}), "ctx": CONTEXT}
    required = " ".join(["a", *named, *(["i"] if event.kind != "value" else [])])
    payload = {**object_of(required, **properties), **deprecation(event)}
    found: Messages = {"request": {"title": event.event, **about(event), "payload": payload}}
    if event.result is not None:
        # JavaScript leaves out a result that is undefined.
        found["result"] = _message("The result.", "i d" if action == "receive" else "i", i=MESSAGE_ID, d=event.result)
    if event.items is not None:
        found["items"] = _items("An item, or several.", event.items)
    if event.sends is not None and event.kind in ("value", "stream"):
        a = {"type": "array", "prefixItems": [{"const": event.event}], "contains": event.sends}
        text = "A message for the handler that runs with the key: the last argument. `ctx` has the key and an id."
        found["sends"] = _message(text, "i a ctx", i=MESSAGE_ID, **named, a=a, ctx=CONTEXT)
    elif event.sends is not None:
        found["sends"] = _items("An item, or several, from the caller.", event.sends)
    for role, inner in (("sends", event.events), ("items", event.emits)):
        if inner:
            a = {"anyOf": [arguments_of(each, {"const": each.event}) for each in inner]}
            found[role] = _message(
                "An event or request of the conversation.", "h a", i=MESSAGE_ID, h=MESSAGE_ID, a=a, ctx=CONTEXT
            )
    return found


def _as_draft_7(schema: Schema, key: str) -> Schema:
    """Rewrite keywords that Draft 7 does not have, and remove those that AsyncAPI defines in another way."""
    if "prefixItems" in schema:
        further = {"additionalItems": schema["items"]} if "items" in schema else {}
        schema |= {"items": schema.pop("prefixItems"), **further}
    if "$ref" in schema and len(schema) > 1:  # keywords beside a reference would be ignored
        schema["allOf"] = [{"$ref": schema.pop("$ref")}, *schema.get("allOf", ())]
    schema.pop("discriminator", None)
    return schema
