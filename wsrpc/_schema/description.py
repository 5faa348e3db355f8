"""`Description`: the events of one registry as data, with their parameters and results as JSON Schema."""

from __future__ import annotations

import inspect
import json
import warnings
from collections.abc import Callable, Iterator
from hashlib import sha256
from typing import Any, Literal, NamedTuple

import msgspec

from .._base.rooms import CHANNEL
from .._core.handlers.callables import without_partials
from .._core.handlers.compiled import Handler
from .._core.handlers.contract import Conversation, Member
from .._core.handlers.introspection import Kind as MemberKind
from .._core.handlers.introspection import Parameter, Result, by_place, result_of
from .._core.handlers.registry import Registry
from .._values.convert import EncHook, make_enc_hook
from .definitions import Form, reachable, rebuilt
from .json_types import Described, schemas_of

Kind = Literal["value", "stream", "upload", "exchange", "conversation"]
"""Kind of the response to a request.

- ``"value"``: a value (``result``)
- ``"stream"``: a channel on which items arrive (``items``)
- ``"upload"``: a channel on which the caller sends items (``sends``). The response after the last item is a value
  (``result``)
- ``"exchange"``: a channel with items in both directions (``sends`` and ``items``)
- ``"conversation"``: a channel for events and requests
"""


class ParameterSchema(msgspec.Struct, omit_defaults=True, frozen=True):
    """Parameter of an event, for which the caller passes a value.

    Attributes:
        name: the name of the parameter.
        schema: the JSON Schema of the value. The schema of an optional parameter has a ``"default"``, if JSON can
            express the default value.
        optional: whether callers can omit the argument.
        rest: whether the parameter takes all further arguments.
    """

    name: str
    schema: dict[str, Any]
    optional: bool = False
    rest: bool = False


class EventSchema(msgspec.Struct, omit_defaults=True, frozen=True):
    """Event or request that has a handler, or that is sent.

    An empty schema stands for any value. Of the events that are sent, those that have no response have the kind
    ``"value"`` and no ``result``.

    Attributes:
        event: the name of the event.
        kind: the kind of the response; see `wsrpc.schema.Kind`.
        channel: the name of the channel. None for the main channel.
        doc: the docstring of the handler, or of the contract's method.
        parameters: the parameters, in order.
        sends: the JSON Schema of the items that the caller sends. With the kind ``"value"`` or ``"stream"``, that of
            the messages that callers with the key send while the handler runs.
        items: the JSON Schema of the items that the caller gets.
        result: the JSON Schema of the result.
        notes: which types have no schema, and why.
        deprecated: what callers should use instead. Empty if the event is not deprecated.
        keep: the seconds for which the results of calls with a key are kept. 0 if calls cannot have a key.
        events: the events and requests that the caller sends in a conversation, as `wsrpc.Conversation` declares them.
        emits: those that the handler sends.
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
    deprecated: str = ""
    keep: float = 0
    events: tuple[EventSchema, ...] = ()
    emits: tuple[EventSchema, ...] = ()


def is_answered(event: EventSchema) -> bool:
    """Return whether an event or request that is sent has a response."""
    return event.kind != "value" or event.result is not None


class Description(msgspec.Struct, frozen=True, omit_defaults=True):
    """Description of the events of a server, client or router.

    A type that has default values, and that is both sent and returned, has two definitions. For a class ``Cup``, the
    definition ``Cup`` describes returned values, which have all fields, and ``CupInput`` describes values that callers
    can send. Arguments of emitted events are described in the same way as returned values, and responses to them in the
    same way as values that callers send.

    Attributes:
        events: the events that have handlers, sorted by name. Events on the main channel come first.
        emits: the events and requests that were declared with ``declare()``.
        definitions: the JSON Schemas that ``{"$ref": ...}`` refers to, by name. In JSON, this field is ``"$defs"``.
    """

    events: tuple[EventSchema, ...]
    emits: tuple[EventSchema, ...]
    definitions: dict[str, dict[str, Any]] = msgspec.field(name="$defs")

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that differ between contracts, for `Peer.contract`.

        Compatible changes give another fingerprint, too. Docstrings, titles, examples and notes are left out, and so
        are the requests by which clients join rooms.
        """
        sides = [[each for each in side if not _joins(each)] for side in (self.events, self.emits)]
        schemas: Any = msgspec.to_builtins(sides, str_keys=True)
        names = reachable(schemas, self.definitions)
        definitions = {name: self.definitions[name] for name in names}
        *bare, named = rebuilt([*schemas, {"$defs": msgspec.to_builtins(definitions, str_keys=True)}], _bare)
        return sha256(msgspec.json.encode([*bare, named["$defs"]], order="sorted")).hexdigest()[:16]


_PROSE = frozenset({"deprecated", "description", "doc", "examples", "notes", "title"})
"""Keys of a description that say nothing about messages, but for titles of what is sent by position."""


def _bare(part: dict[str, Any], key: str) -> dict[str, Any]:
    """Return a part of a description without its prose.

    The arrays in a default value are sorted, because the order of a set differs between processes.
    """
    prose = _PROSE - {"title"} if key == "prefixItems" else _PROSE
    return {name: _sorted(item) if name == "default" else item for name, item in part.items() if name not in prose}


def _sorted(value: Any) -> Any:
    if value.__class__ is dict:
        return {name: _sorted(item) for name, item in value.items()}
    return sorted(map(_sorted, value), key=msgspec.json.encode) if value.__class__ in (list, tuple) else value


def _joins(event: EventSchema) -> bool:
    # These handlers are registered with the first room that clients can join, perhaps while the server runs.
    return event.channel == CHANNEL and event.event in ("join", "leave")


class ServedContract:
    """The contract of a server or client, for its greetings. Calling it returns `Description.fingerprint`.

    The text is empty if nothing is registered. The description is made for the first greeting, and again only after
    registrations have changed: about 1 ms for each handler with a class of its own.
    """

    def __init__(self, registry: Registry, enc_hook: EncHook | None) -> None:
        self._registry = registry
        self._enc_hook = enc_hook
        self._version = -1
        self._made_of: object = ({}, {})
        self._text = ""

    def __call__(self) -> str:
        registry = self._registry
        if self._version != registry.version:
            self._version = registry.version
            if (found := registered(registry)) != self._made_of:
                self._made_of = found
                self._text = describe(registry, self._enc_hook, once=False).fingerprint if any(found) else ""
        return self._text


def describe(registry: Registry, enc_hook: EncHook | None, *, once: bool = True) -> Description:
    """Describe the registered handlers and the declared events; see `wsrpc.schema.describe`.

    Args:
        enc_hook: encodes defaults.
        once: whether handlers that were registered with `once` are described, too.
    """
    drafts = [_draft(*found) for found in sorted(shown_handlers(registry, once=once), key=_place)]
    emitted = [_emitted(*found) for found in sorted(declared_members(registry), key=_place)]
    types = [each for draft in (*drafts, *emitted) for each in draft.types()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydantic warns of defaults that no schema can show
        schemas, definitions = schemas_of(types)
    described = iter(schemas)
    default = _default_writer(enc_hook)
    events = [_finished(draft, described, default) for draft in drafts]
    emits = [_finished(draft, described, default) for draft in emitted]
    made = Description(tuple(events), tuple(emits), definitions)
    return msgspec.convert(_writable(msgspec.to_builtins(made)), Description)


def _place(found: tuple[str | None, str, Any]) -> tuple[str, str]:
    channel, event, _ = found
    return channel or "", event


def _writable(value: Any) -> Any:
    """Return ``value`` with ``?`` for each half of a surrogate pair, which cannot be encoded."""
    if value.__class__ is str:
        return value.encode(errors="replace").decode()
    if value.__class__ in (list, tuple):
        return [_writable(item) for item in value]
    if value.__class__ is dict:
        return {_writable(key): _writable(item) for key, item in value.items()}
    return value


def shown_handlers(registry: Registry, *, once: bool) -> Iterator[tuple[Any, str, Handler]]:
    """Yield the channel, the event and the handler of each event that a description contains."""
    for channel, scope in registry.scopes.items():
        assert not isinstance(channel, int)
        for event, handler in {**scope.handlers, **(scope.once if once else {})}.items():
            if not handler.hidden:
                yield channel, event, handler


def declared_members(registry: Registry) -> Iterator[tuple[str | None, str, Member]]:
    """Yield the channel, the event and the contract's member of each event that was declared."""
    for channel, members in (registry.declared or {}).items():
        assert not isinstance(channel, int)
        for event, member in members.items():
            yield channel, event, member


def registered(registry: Registry) -> tuple[dict[Any, Handler], dict[Any, Any]]:
    """Return the handlers, and the functions and kinds of declared members, by channel and event.

    Comparing them costs far less than making the description. Handlers of `once` are not included: each message for one
    changes the registrations, so that remote peers could cause the description to be made again and again.
    """
    handlers = {(channel, event): handler for channel, event, handler in shown_handlers(registry, once=False)}
    declared = declared_members(registry)
    return handlers, {(channel, event): (member.function, member.kind) for channel, event, member in declared}


class _Draft(NamedTuple):
    """An event before its types have schemas."""

    channel: str | None
    event: str
    kind: Kind
    doc: str
    parameters: tuple[Parameter, ...]
    form: Form
    """The form of the parameters."""
    others: dict[str, tuple[Any, Form]]
    """The types of `EventSchema.sends`, `items` and `result`, each with the form of its schema."""
    notes: list[str]
    deprecated: str = ""
    keep: float = 0
    events: tuple[_Draft, ...] = ()
    emits: tuple[_Draft, ...] = ()

    def types(self) -> list[tuple[Any, Form]]:
        inner = [each for draft in (*self.events, *self.emits) for each in draft.types()]
        return [*((parameter.type, self.form) for parameter in self.parameters), *self.others.values(), *inner]


_KINDS: dict[MemberKind, Kind] = {
    MemberKind.REQUEST: "value",
    MemberKind.EVENT: "value",
    MemberKind.STREAM: "stream",
    MemberKind.UPLOAD: "upload",
    MemberKind.EXCHANGE: "exchange",
    MemberKind.CONVERSATION: "conversation",
}


def _draft(channel: str | None, event: str, handler: Handler) -> _Draft:
    notes: list[str] = []
    try:
        given = result_of(handler.function)
    except TypeError as exc:
        given = Result(MemberKind.REQUEST)
        notes.append(str(exc))
    kind = _KINDS[given.kind if handler.facts.kind is MemberKind.REQUEST else handler.facts.kind]
    doc = _doc(handler.function)
    if (member := handler.member) is not None:
        kind = _KINDS[member.kind]
        given = given if given.type is not Any else Result(given.kind, member.result)
        doc = doc or _doc(member.function)
    parameters = tuple(p for p in handler.facts.parameters if p.source in ("wire", "rest"))
    others: dict[str, tuple[Any, Form]] = {}
    for parameter in handler.facts.parameters:
        if parameter.source == "stream":
            others["sends"] = parameter.type, "sent"
    if handler.keep is not None and handler.keep.inbox is not None:
        others["sends"] = handler.keep.inbox, "sent"
    if kind != "conversation":
        others["items" if kind in ("stream", "exchange") else "result"] = given.type, "given"
    deprecated, keep = handler.deprecated or "", 0 if handler.keep is None else handler.keep.seconds
    draft = _Draft(channel, event, kind, doc, parameters, "sent", others, notes, deprecated, keep)
    annotated = [*(p.type for p in handler.facts.parameters), given.type]
    return _with_channel(draft, annotated + ([] if member is None else _annotated(member)), "sent", "given")


def _with_channel(draft: _Draft, annotated: list[Any], form: Form, answered: Form) -> _Draft:
    """Return a draft with the events of its conversation, if one of the ``annotated`` types declares them."""
    metadata = (each for tp in annotated for each in getattr(tp, "__metadata__", ()))
    declared = next((each for each in metadata if isinstance(each, Conversation)), None)
    if declared is None or draft.kind != "conversation":
        return draft
    handles, emits = (sorted(side, key=lambda member: member.event) for side in declared.members())
    events = tuple(_of_member(None, each.event, each, form, answered) for each in handles)
    return draft._replace(
        events=events, emits=tuple(_of_member(None, each.event, each, answered, form) for each in emits)
    )


def _emitted(channel: str | None, event: str, member: Member) -> _Draft:
    return _with_channel(_of_member(channel, event, member, "given", "sent"), _annotated(member), "given", "sent")


def _annotated(member: Member) -> list[Any]:
    """Return the types of a contract's member of which one may declare a conversation."""
    return [*(p.type for p in member.signature.parameters), result_of(member.function).type]


def _of_member(channel: str | None, event: str, member: Member, form: Form, answered: Form) -> _Draft:
    kind = _KINDS[member.kind]
    others: dict[str, tuple[Any, Form]] = {}
    if member.source is not None:
        others["sends"] = member.source.type, form
    if kind in ("stream", "exchange"):
        others["items"] = member.result, answered
    elif member.kind in (MemberKind.REQUEST, MemberKind.UPLOAD):
        others["result"] = member.result, answered
    doc, parameters = _doc(member.function), by_place(member.parameters)
    return _Draft(channel, event, kind, doc, parameters, form, others, [], member.deprecated or "")


def _doc(function: Any) -> str:
    function = without_partials(function)
    if isinstance(function, type):
        # Only the function's own docstring, not the docstring of a base class or one that a dataclass generates.
        doc = inspect.cleandoc(vars(function).get("__doc__") or "")
        doc = "" if doc.startswith(f"{function.__name__}(") else doc
    else:
        doc = inspect.getdoc(function if inspect.isroutine(function) else type(function).__call__) or ""
    return doc


DefaultWriter = Callable[[Parameter], dict[str, Any]]
"""Function that returns ``{"default": ...}`` for a parameter, or ``{}``."""


def _default_writer(enc_hook: EncHook | None) -> DefaultWriter:
    hook = make_enc_hook(enc_hook)

    def write(parameter: Parameter) -> dict[str, Any]:
        default = parameter.default
        # A contract may write `= ...` for a default that it does not state.
        if parameter.source == "rest" or parameter.required or default is ... or default is msgspec.UNSET:
            return {}
        try:
            built = msgspec.to_builtins(default, str_keys=True, enc_hook=hook)
            # JSON has no NaN, no infinity and no half of a surrogate pair: such a default is left out.
            text = json.dumps(built, ensure_ascii=False, allow_nan=False).encode()
            return {"default": json.loads(text)}
        except Exception:  # the default cannot be encoded, or a user's enc_hook has raised any exception
            return {}

    return write


def _finished(draft: _Draft, described: Iterator[Described], default: DefaultWriter) -> EventSchema:
    notes = draft.notes
    parameters: list[ParameterSchema] = []
    for parameter in draft.parameters:
        schema, found = next(described)
        rest = parameter.source == "rest"
        schema = {**schema, **default(parameter)}
        parameters.append(ParameterSchema(parameter.name, schema, not parameter.required and not rest, rest))
        notes += [f"parameter {parameter.name!r}: {note}" for note in found]
    fields: dict[str, Any] = {}
    for name in draft.others:
        fields[name], found = next(described)
        notes += [f"{'what is sent' if name == 'sends' else name}: {note}" for note in found]
    for name, inner in (("events", draft.events), ("emits", draft.emits)):
        fields[name] = tuple(_finished(each, described, default) for each in inner)
    fields |= {"notes": tuple(notes), "deprecated": draft.deprecated, "keep": draft.keep}
    return EventSchema(draft.event, draft.kind, draft.channel, draft.doc, tuple(parameters), **fields)
