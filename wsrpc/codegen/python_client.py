"""Python client for a server: a module with its types, and a typed proxy for each of its channels.

``python -m wsrpc client app:server -o api.py`` writes the module. docs/how-to/python-client.md shows how to use it.
"""

from __future__ import annotations

import ast

import msgspec

from .._schema.definitions import renamed
from .._schema.description import Description, EventSchema, is_answered
from ._checking import (
    InvalidDescription,
    bounded_depth,
    by_channel,
    prose_of,
    read_tolerantly,
    schemas_of_event,
)
from ._name_table import NameTable
from ._python_models import Models
from ._python_plan import computed_fields, merged
from ._python_text import (
    DEPRECATED,
    IMPORTS,
    class_name,
    comment,
    docstring,
    identifier,
    is_plain,
    literal,
    module_names,
    plain_identifier,
    subscript,
)
from ._python_types import Types, default_of

__all__ = ["InvalidDescription", "client_module"]

HEAD = """\
# Made by `python -m wsrpc client`. Make it anew when the server changes, instead of changing it here.
# fmt: off
# ruff: noqa: E501, B006
"""


@bounded_depth()
def client_module(description: Description, /) -> str:
    """Return the source code of a Python module with a typed client for the events in ``description``.

    The module contains:

    - ``CONTRACT``, the fingerprint of the description, to compare with `Peer.contract`
    - the types of all parameters and results
    - for each channel, a `Protocol` with its requests, and a function that returns a proxy for it
    - for each channel with emitted events, a `Protocol` with these events

    The same description always gives the same source code.

    Raises:
        InvalidDescription: no module can be generated from the description.
    """
    description, contract = read_tolerantly(description), f'CONTRACT = "{description.fingerprint}"'
    pairs = merged(description.definitions)
    description = msgspec.convert(renamed(msgspec.to_builtins(description), pairs), Description)
    definitions = description.definitions
    for name, kept in pairs.items():
        dropped = definitions.pop(name)
        if "enum" not in dropped:
            # The form of sent values, which has the defaults. A computed field is not sent.
            fields = {**dropped.get("properties", {}), **computed_fields(dropped, definitions[kept])}
            definitions[kept] = {**dropped, **({"properties": fields} if fields else {})}
    definitions = dict(sorted(definitions.items()))
    names = module_names()
    types = [schema for event in (*description.events, *description.emits) for schema in schemas_of_event(event)]
    written = Models(definitions, types, names)
    parts = [contract, *written.written()]
    if any(event.deprecated for event in (*description.events, *description.emits)):
        parts.append(DEPRECATED)
    parts += _Contracts(written, names).written(description)
    body = "\n\n\n".join(parts)
    text = f"\nfrom __future__ import annotations\n{_imports(body, calls=bool(description.events))}"
    if body:
        blank = "\n\n" if body.startswith(("class ", "def ")) else "\n"  # as ruff sorts imports
        text += f"{blank}{body}\n"
    return HEAD + text


def _imports(body: str, *, calls: bool) -> str:
    """Return the imports of the names that ``body`` uses. ``calls``: it has functions that return proxies."""
    names = (node for node in ast.walk(ast.parse(body)) if isinstance(node, ast.Name))
    used = {name.id for name in names if isinstance(name.ctx, ast.Load)} & IMPORTS.keys()
    modules = [name for name in sorted(used) if not IMPORTS[name]]
    standard = ["import datetime as dt" if name == "dt" else f"import {name}" for name in modules if name in STANDARD]
    for home in sorted({IMPORTS[name] for name in used} - {""}):
        chosen = sorted((name for name in used if IMPORTS[name] == home), key=lambda name: (not name.isupper(), name))
        standard.append(f"from {home} import {', '.join(chosen)}")
    others = [f"import {name}" for name in modules if name not in STANDARD]
    if calls:  # the callers may be members of a cluster
        others.append("import wsrpc.cluster")
    return "".join("\n" + "\n".join(lines) + "\n" for lines in (standard, others) if lines)


STANDARD = ("builtins", "dt", "enum")


class _Contracts:
    """The contracts of a module: requests and events of each channel, and the functions that return proxies."""

    def __init__(self, models: Models, names: NameTable) -> None:
        self._models = models
        self._names = names
        self._caller = names.unique("Caller")

    def written(self, description: Description) -> list[str]:
        channels = by_channel(description.events)
        emitting = by_channel(description.emits)
        requests = {channel: self._class_name(channel) for channel in channels}
        heard = {channel: self._class_name(channel, "Events") for channel in emitting}
        functions = {channel: self._names.unique(_function_name(channel)) for channel in channels}
        self._models.reserved.update((*requests.values(), *heard.values(), self._caller))
        parts: list[list[str]] = []
        for channel, found in channels.items():
            parts.append(self._protocol(requests[channel], f"Calls that you can make on {_called(channel)}.", found))
        for channel, found in emitting.items():
            about = "Events and requests that are sent" if any(map(is_answered, found)) else "Events that are emitted"
            parts.append(self._protocol(heard[channel], f"{about} on {_called(channel)}.", found, emitted=True))
        for event in description.events:
            for inner, ending, what in (
                (event.events, "Calls", "Calls"),
                (event.emits, "Events", "Events that arrive"),
            ):
                if inner:
                    name = self._names.unique(class_name(event.event, "Event") + ending)
                    about = f"{what} in the conversation {literal(event.event)}."
                    parts.append(self._protocol(name, about, [*inner], emitted=ending == "Events"))
        if channels:
            parts.append([f"{self._caller}: TypeAlias = wsrpc.Client | wsrpc.Peer | wsrpc.cluster.ClusterPeer"])
        for channel in channels:
            parts.append(self._function(functions[channel], channel, requests[channel]))
        return ["\n".join(lines) for lines in parts]

    def _class_name(self, channel: str | None, ending: str = "") -> str:
        return self._names.unique(class_name("main" if channel is None else channel, "Channel") + ending)

    def _function(self, name: str, channel: str | None, contract: str) -> list[str]:
        of = "" if channel is None else f".of({literal(channel)})"
        about = docstring(f"Return a proxy for {_called(channel)}.", "    ")
        head = f"def {name}(caller: {self._caller}, /) -> {contract}:"
        return [head, *about, f"    return caller{of}.proxy({contract})"]

    def _protocol(self, name: str, about: str, events: list[EventSchema], *, emitted: bool = False) -> list[str]:
        table = NameTable(self._models.reserved)
        called = {event.event: table.unique(event.event) for event in events if is_plain(event.event)}
        for event in events:
            if event.event not in called:
                called[event.event] = table.unique(plain_identifier(event.event, "event"))
        types = self._models.types(called.values())
        lines = [f"class {name}(Protocol):", *docstring(about, "    ")]
        for event in events:
            lines += ["", *self._method(called[event.event], event, types, answered=not emitted or is_answered(event))]
        return lines

    def _method(self, name: str, event: EventSchema, types: Types, *, answered: bool) -> list[str]:
        types.notes.clear()
        parameters = self._parameters(event, types)
        result = self._result(event, types) if answered else "None"
        lines = comment("\n".join(types.notes), "    ")
        if event.deprecated:
            lines.append(f"    @deprecated({literal(event.deprecated)})")
        if name != event.event:
            lines.append(f"    @wsrpc.method({literal(event.event)})")
        head = "def" if event.kind in ("stream", "exchange") else "async def"
        about = docstring(_about(event), "    " * 2)
        lines.append(f"    {head} {name}({', '.join(parameters)}) -> {result}:" + ("" if about else " ..."))
        return [*lines, *about, *(["        ..."] if about else [])]  # pyright requires it

    def _parameters(self, event: EventSchema, types: Types) -> list[str]:
        table = NameTable(("self",))
        # All parameters before a required parameter are required, too.
        needed = max((n for n, each in enumerate(event.parameters) if not each.optional and not each.rest), default=-1)
        parameters = ["self"]
        for number, each in enumerate(event.parameters):
            form = types.of(each.schema)
            name = table.unique(plain_identifier(each.name, "argument"))
            if each.rest:
                parameters.append(f"*{name}: {form.expression}")
            elif number <= needed:
                parameters.append(f"{name}: {form.expression}")
            else:
                known = default_of(each.schema["default"], form) if "default" in each.schema else None
                if known in (None, "set()"):  # `set()` would be one object, shared by all calls
                    known = "..."
                parameters.append(f"{name}: {form.expression} = {known}")
        if event.kind in ("upload", "exchange"):
            items = subscript("AsyncIterable", types.of(event.sends).expression)
            if needed + 1 < len(event.parameters) and not event.parameters[-1].rest:
                parameters.append("*")
            parameters.append(f"{table.unique('items')}: {items}")
        return parameters

    def _result(self, event: EventSchema, types: Types) -> str:
        if event.kind in ("stream", "exchange"):
            return subscript("wsrpc.Stream", types.of(event.items).expression)
        if event.kind == "conversation":
            return "wsrpc.AnonymousChannel"
        return types.of(event.result).expression


def _called(channel: str | None) -> str:
    return "the main channel" if channel is None else f"the channel {literal(channel)}"


def _function_name(channel: str | None) -> str:
    name = "main" if channel is None else identifier(channel, "channel")
    return name[:1].lower() + name[1:]


def _about(event: EventSchema) -> str:
    parts = [event.doc]
    described = [
        f"    {plain_identifier(each.name, 'argument')}: {' '.join(text.split())}"
        for each in event.parameters
        if (text := prose_of(each.schema))
    ]
    if described:
        parts.append("\n".join(["Args:", *described]))
    parts += [f"Not described: {note}." for note in event.notes]
    return "\n\n".join(filter(None, parts))
