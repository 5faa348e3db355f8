"""TypeScript declarations of the events that a server handles or emits, for clients with python-wsrpc or ws-wrapper.

``python -m wsrpc types app:server -o api.ts`` writes the declarations. docs/how-to/typescript.md shows how to use them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from importlib.resources import files

import msgspec

from .._base.misuse import check_flag
from .._schema.definitions import objects
from ..errors import printable
from ..schema import Description, EventSchema, ParameterSchema
from ._checking import bounded_depth, by_channel, prose_of, read_tolerantly
from ._typescript_types import (
    BASE64,
    Names,
    comment,
    endless_types,
    has_properties,
    in_parentheses,
    parameter_names,
    property_name,
    type_names,
    type_of,
)

__all__ = ["declarations"]

HEAD = """\
/* eslint-disable */
// Made by `python -m wsrpc types`. Make it anew when handlers change, instead of changing it here.
"""

_, *_parts = re.split(
    r"^// part (\w+)\n",
    files(__name__.rpartition(".")[0]).joinpath("_ws_wrapper.ts").read_text("utf-8"),
    flags=re.MULTILINE,
)
WS_WRAPPER_TYPES = {name: f"{text.rstrip()}\n" for name, text in zip(_parts[::2], _parts[1::2], strict=True)}
"""The types in ``_ws_wrapper.ts``, by their names."""
NEEDED = {
    "value": (),
    "conversation": ("AnonymousChannel",),
    "stream": ("AnonymousChannel", "Items"),
    "upload": ("AnonymousChannel", "Upload"),
    "exchange": ("AnonymousChannel", "Exchange"),
}

GROUPS = ("requests", "streams", "uploads", "conversations", "handlers")
"""The groups of events of `Shape` in browser/src/api.ts."""
GROUP_OF = {
    "value": "requests",
    "stream": "streams",
    "upload": "uploads",
    "exchange": "conversations",
    "conversation": "conversations",
}
CONTRACT = """\
/** What `client.contract` is while the server has this contract. */
export const CONTRACT = "%s"
"""
API = """\
/**
 * What pages call, and what the server calls (`handlers`): `const client = new Client<Api>("/ws")`, with python-wsrpc.
 * In `streams`, the result is one item. In `uploads`, the first parameter is one item. In `conversations`, the result
 * describes the channel; `void` if nothing is known of it.
 */
export type Api = """
EXCHANGE = """\
{
  requests: {
    next: (item: { value: %s; done: false } | { done: true }) => null
    start: () => null
  }
  handlers: {
    next: (item: { value: %s; done: false } | { value: undefined; done: true }) => void
    stop: () => void
  }
}"""
"""The channel of an exchange, for which the client has no method."""

BYTES = f"""\
/** Bytes, as base64 text. */
export type {BASE64} = string
"""

# These names mean something else in the declarations, so a class of such a name gets another name.
OWN_TYPES = (
    *(
        "Api",
        *WS_WRAPPER_TYPES,
        BASE64,
        "Calls",
        "ChannelEmits",
        "Channels",
        "CONTRACT",
        "Emits",
        "Emitted",
        "EventMap",
    ),
    *("Events", "Lifecycle", "Listening", "Listens", "Of", "Others"),
)
GLOBAL = (
    *("AbortSignal", "AsyncIterable", "AsyncIterator", "Error", "IterableIterator", "Omit", "Parameters", "Promise"),
    *("Record", "ReturnType", "Symbol", "Uint8Array"),
)


@bounded_depth()
def declarations(description: Description, /, *, msgpack: bool = False) -> str:
    """Return TypeScript declarations of the described events, as the text of a ``.ts`` or ``.d.ts`` file.

    The file contains the types of parameters and results, and ``Api``, with which the ``Client`` of python-wsrpc is
    typed. ``CONTRACT`` is the fingerprint of the description, to compare with the ``contract`` of that client.

    For ws-wrapper, ``Events`` contains the events that have handlers on the main channel, and ``Channels`` those on
    named channels. In the same way, ``Emits`` and ``ChannelEmits`` contain the events and requests that were declared
    with ``declare()``. ``Typed`` is the type of a connection.

    Classes become interfaces with the same name. If the name has another meaning in TypeScript, ``_`` is appended. The
    same description always gives the same file.

    Args:
        msgpack: whether the client is a ``Client`` with the codec ``msgpack``, so that bytes are a ``Uint8Array``
            instead of base64 text. The declarations contain nothing for ws-wrapper, which has no MessagePack.

    Raises:
        InvalidDescription: the description, which may come from elsewhere, has a wrong shape.
    """
    check_flag("msgpack", msgpack)
    definitions = read_tolerantly(description).definitions
    names = Names(
        type_names(definitions, (*OWN_TYPES, *GLOBAL)),
        "Uint8Array" if msgpack else BASE64,
    )
    parts: list[str] = []
    endless = endless_types(definitions)
    for name, schema in definitions.items():
        about = comment(str(schema.get("description", "")))
        text = "unknown" if name in endless else type_of(schema, names)
        if has_properties(schema):
            parts.append(f"{about}export interface {names.definitions[name]} {text}\n")
        else:
            parts.append(f"{about}export type {names.definitions[name]} = {text}\n")
    if not msgpack and any(
        each.get("contentEncoding") == "base64" for each in objects(msgspec.to_builtins(description))
    ):
        parts.append(BYTES)
    parts.append(f"{API}{_api(description, names)}\n")
    if not msgpack:
        parts += _for_ws_wrapper(description, names)
    return printable("\n".join([HEAD, CONTRACT % description.fingerprint, *parts]))


def _for_ws_wrapper(description: Description, names: Names) -> list[str]:
    parts: list[str] = []
    main, named = _channels(description.events, names, _answer)
    parts.append(f"/** Events that you can request or emit on the main channel. */\nexport type Events = {main}\n")
    parts.append(f"/** Events that you can request or emit on named channels. */\nexport type Channels = {named}\n")
    main, named = _channels(description.emits, names, _listened)
    parts.append(f"/** Events that you can listen for on the main channel. */\nexport type Emits = {main}\n")
    parts.append(f"/** Events that you can listen for on named channels. */\nexport type ChannelEmits = {named}\n")
    needed = {"Typed", *(name for event in description.events for name in NEEDED[event.kind])}
    return [*parts, *(text for name, text in WS_WRAPPER_TYPES.items() if name in needed)]


Answer = Callable[[EventSchema, Names, str], str]
"""Function that returns the type of the answer to an event, with an indentation."""


def _api(description: Description, names: Names) -> str:
    """Return the `Shape` of a server, as browser/src/api.ts defines it."""
    events, emits = by_channel(description.events), by_channel(description.emits)
    main = _groups(events.pop(None, []), emits.pop(None, []), names, "  ")
    named = ""
    for channel in sorted({*events, *emits}, key=str):
        inner = _groups(events.get(channel, []), emits.get(channel, []), names, "      ")
        named += f"    {property_name(str(channel))}: {_braces(inner, '    ')}\n"
    return _braces(f"{main}  channels: {_braces(named, '  ')}\n" if named else main)


def _groups(events: list[EventSchema], emits: list[EventSchema], names: Names, indent: str) -> str:
    members: dict[str, str] = dict.fromkeys(GROUPS, "")
    for event in events:
        if event.kind == "upload":
            item = ParameterSchema("item", event.sends or {})
            event = msgspec.structs.replace(event, parameters=(item, *event.parameters))
        members[GROUP_OF[event.kind]] += _event(event, names, f"{indent}  ", _called)
        if event.kind == "value" and event.sends is not None:  # `stream(...).send()` sends messages to its runs, too
            members["streams"] += _event(event, names, f"{indent}  ", _with_messages)
    for event in emits:
        members["handlers"] += _event(event, names, f"{indent}  ", _handled)
    return "".join(f"{indent}{group}: {_braces(inner, indent)}\n" for group, inner in members.items() if inner)


def _called(event: EventSchema, names: Names, indent: str) -> str:
    sends, items, result = (type_of(each, names, indent) for each in (event.sends, event.items, event.result))
    match event.kind:
        case "value" | "upload":
            return result
        case "stream":
            return items if event.sends is None else _with_messages(event, names, indent)
        case "exchange":
            return EXCHANGE.replace("\n", f"\n{indent}") % (sends, in_parentheses(items))
        case "conversation":
            return _braces(_groups([*event.events], [*event.emits], names, f"{indent}  "), indent, "void")


def _with_messages(event: EventSchema, names: Names, indent: str) -> str:
    """Return the type of what a handler yields, which is nothing if it returns a value, and of what it is sent."""
    items = "never" if event.items is None else type_of(event.items, names, indent)
    return f"{{ $items: {items}; $messages: {type_of(event.sends, names, indent)} }}"


def _handled(event: EventSchema, names: Names, indent: str) -> str:
    if event.kind == "stream":
        items = type_of(event.items, names, indent)
        return f"AsyncIterable<{items}> | IterableIterator<{items}>"
    result = type_of(event.result, names, indent) if event.result is not None else "void"
    return "void" if result == "null" else result


def _channels(events: Iterable[EventSchema], names: Names, answer: Answer) -> tuple[str, str]:
    """Return the types of the events on the main channel, and the types of the events on all named channels."""
    channels = by_channel(events)
    main = "".join(_event(event, names, "  ", answer) for event in channels.pop(None, ()))
    named = ""
    for channel, found in channels.items():
        assert channel is not None
        inner = "".join(_event(event, names, "    ", answer) for event in found)
        named += f"  {property_name(channel)}: {_braces(inner, '  ')}\n"
    return _braces(main), _braces(named)


def _braces(inner: str, indent: str = "", nothing: str = "{}") -> str:
    return f"{{\n{inner}{indent}}}" if inner else nothing


def _event(event: EventSchema, names: Names, indent: str, answer: Answer) -> str:
    parameters: list[str] = []
    about = [event.doc]
    named = parameter_names(p.name for p in event.parameters)
    # A description from elsewhere may have a required parameter after an optional one.
    needed = max((number for number, p in enumerate(event.parameters) if not (p.optional or p.rest)), default=-1)
    for number, (parameter, name) in enumerate(zip(event.parameters, named, strict=True)):
        tp = type_of(parameter.schema, names, indent)
        if parameter.rest:
            parameters.append(f"...{name}: {in_parentheses(tp)}[]")
        else:
            parameters.append(f"{name}{'?' if number > needed else ''}: {tp}")
        if text := prose_of(parameter.schema):
            about.append(f"@param {name} {text}")
    about += [f"Not described: {note}." for note in event.notes]
    about += [f"@deprecated {event.deprecated}"] if event.deprecated else []
    text = comment("\n".join(filter(None, about)), indent)
    return f"{text}{indent}{property_name(event.event)}: ({', '.join(parameters)}) => {answer(event, names, indent)}\n"


def _listened(event: EventSchema, names: Names, indent: str) -> str:
    if event.kind != "value":
        return "unknown"
    if event.result is None:
        return "void"
    result = type_of(event.result, names, indent)
    result = "void | null" if result == "null" else result  # JavaScript functions without a result return undefined
    return f"{result} | Promise<{result}>"


def _answer(event: EventSchema, names: Names, indent: str) -> str:
    sends, items, result = (type_of(each, names, indent) for each in (event.sends, event.items, event.result))
    match event.kind:
        case "value":
            return result
        case "stream":
            return f"Items<{items}>"
        case "upload":
            return f"Upload<{sends}, {result}>"
        case "exchange":
            return f"Exchange<{sends}, {items}>"
        case "conversation":
            calls, heard = (
                _braces("".join(_event(each, names, f"{indent}  ", kind) for each in inner), indent)
                for inner, kind in ((event.events, _answer), (event.emits, _listened))
            )
            declared = f"Listening<Others<AnonymousChannel>, {heard}> & Calls<{calls}>"
            return declared if event.events or event.emits else "AnonymousChannel"
