"""`BadArguments` errors: which argument of a call does not fit its handler, and why."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from ..._values.older_names import older_names_of
from ..._values.pydantic_types import Misfit
from ...errors import BadArguments, RpcError, made_here, set_text_for_log
from .introspection import Parameter


class CallRefused(Exception):
    """Raised before a handler runs: the arguments do not fit, or there are too many calls. ``error`` is for the caller.

    It is not a `BadArguments`, because a request of the handler's own code may raise `BadArguments`. Then the handler
    is at fault, not its caller.
    """

    def __init__(self, error: RpcError) -> None:
        super().__init__(error)
        self.error: RpcError = made_here(error)


_AT = re.compile(r"(?P<text>.*) - at (?P<key>`key` in )?`\$\[(?P<index>\d+)\](?P<path>[^`]*)`", re.DOTALL)
_EXPECTED = re.compile(r"Expected (?P<expected>.*?)(?:, got (?P<got>.*))?", re.DOTALL)
_MAX_TEXT = 300


def _ordinal(number: int) -> str:
    ending = "th" if 10 <= number % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def _count(number: int) -> str:
    return f"{number or 'no'} argument{'' if number == 1 else 's'}"


def _bounded(text: str) -> str:
    return text if len(text) <= _MAX_TEXT else f"{text[: _MAX_TEXT - 1]}…"


_QUOTES_NOTHING = ("Expected ", "Object missing required field ")
"""How msgspec begins its texts that quote nothing from the sender."""
_WIRE_TYPES = frozenset({"null", "bool", "int", "float", "str", "bytes", "array", "object"})
"""Types that msgspec reports for values. Any other text may quote the value itself."""


def refused(
    parameters: Sequence[Parameter], exc: msgspec.ValidationError | None, a: list[Any], *, in_rest: bool = False
) -> CallRefused:
    """Return the error for arguments that do not fit the parameters of a handler.

    Args:
        exc: the error of the conversion. None if only the number of arguments can be wrong.
        a: the event's name and the arguments.
        in_rest: whether ``exc`` is from the conversion of the arguments for ``*args``. Then msgspec's path starts with
            the place in the list of these arguments. Otherwise the path starts with the place in ``a``.
    """
    # The name by which the caller knows the handler. The handler of the event "" has no such name.
    called = f"{a[0][:64]}()" if a and a[0] and isinstance(a[0], str) else "handler"
    wire = [p for p in parameters if p.source == "wire"]
    rest = next((p for p in parameters if p.source == "rest"), None)
    error = _miscounted(called, wire, rest, max(len(a) - 1, 0))
    return CallRefused(error or _misfit(called, wire, rest if in_rest else None, exc))


def _miscounted(called: str, wire: list[Parameter], rest: Parameter | None, got: int) -> BadArguments | None:
    required, most = sum(p.required for p in wire), len(wire)
    if got < required:
        missing = wire[got].name
        least = _count(required)
        if most != required or rest is not None:
            least = f"at least {least}"
        return BadArguments(
            f"{called}: missing argument {missing!r}: expected {least}, got {got}{_not_injected(wire)}",
            data={"parameter": missing, "expected": required, "got": got},
        )
    if got > most and rest is None:
        bound = f"at most {_count(most)}" if most else "no arguments"
        return BadArguments(f"{called}: expected {bound}, got {got}", data={"expected": most, "got": got})
    return None


def placed(event: str, parameters: Sequence[Parameter], named: Mapping[str, Any]) -> list[Any]:
    """Return arguments that are given by name in the order of the parameters.

    Before an argument that is given, a default stands for one that is not, and must fit its annotation. A parameter
    ``*args`` takes a list. Older names of parameters are read, too.

    Raises:
        BadArguments: a name is unknown or there twice, a required one is missing, or ``*args`` is no list. ``data``
            names it.
    """

    def refusal(name: str, text: str, **more: Any) -> BadArguments:
        return BadArguments(f"{event[:64]}(): {text}", data={"parameter": name[:64], **more})

    taken = {p.name: p for p in parameters if p.source in ("wire", "rest")}
    present: dict[str, Any] = {}
    for name, value in named.items():
        known = (p.name for p in taken.values() if name in older_names_of(p.type))
        if (mine := name if name in taken else next(known, None)) is None:
            names = ", ".join(map(repr, taken)) or "none"
            raise refusal(name, f"no argument {name[:64]!r}: the names are {names}", expected=[*taken])
        if mine in present:
            raise refusal(name, f"{name!r} is another name of an argument that is there")
        present[mine] = value
    args: list[Any] = []
    given = 0
    for name, p in taken.items():
        found = present.get(name, p.default if p.source == "wire" else [])
        if p.source == "wire" and p.required and name not in present:
            raise refusal(name, f"missing argument {name!r}")
        if p.source == "rest" and not isinstance(found, list):
            raise refusal(name, f"argument {name!r}: expected array", expected="array")
        args += found if p.source == "rest" else [found]
        if name in present and (p.source == "wire" or found):
            given = len(args)
    return args[:given]


_CUSTOMARY = {"peer": "Peer", "ctx": "Context", "context": "Context"}
"""Names that parameters of injected classes have in the docs."""


def _not_injected(wire: list[Parameter]) -> str:
    """Return a hint for the author of a handler who has forgotten the annotation of an injected parameter."""
    bare = next((p.name for p in wire if p.name in _CUSTOMARY and p.type is Any), None)
    return "" if bare is None else f"; if {bare!r} is no argument, annotate it: `{bare}: {_CUSTOMARY[bare]}`"


def _misfit(
    called: str, wire: list[Parameter], rest: Parameter | None, exc: msgspec.ValidationError | None
) -> BadArguments:
    found = _AT.fullmatch(str(exc))
    index = int(found["index"]) if found else 0
    parameter = rest or (wire[index - 1] if 0 < index <= len(wire) else None)
    if found is None or parameter is None:  # a hook or a class wrote the text, not msgspec
        error = BadArguments(f"{called}: {_bounded(str(exc))}")
        set_text_for_log(error, f"{called}: its arguments do not fit")
        return error
    path = found["path"] if rest is None else f"[{index}]{found['path']}"
    # msgspec does not report which key is wrong.
    where = f"{'a key of ' if found['key'] else ''}argument {parameter.name!r}"
    where += _bounded(path) if path else f" ({_ordinal(index)})"
    text = _bounded(found["text"])
    data = {"parameter": parameter.name}
    if exc is not None and isinstance(exc.__cause__, Misfit):
        path += exc.__cause__.path
    if path:
        data["path"] = _bounded(path)
    if wanted := _EXPECTED.fullmatch(text):
        text = text.replace("Expected", "expected", 1).replace("`", "")
        data.update({key: value.replace("`", "") for key, value in wanted.groupdict().items() if value})
    error = BadArguments(f"{called}: {where}: {text}", data=data)
    by_msgspec = exc is not None and exc.__cause__ is None  # not by a hook or a class
    if data.get("got") not in _WIRE_TYPES and not (by_msgspec and found["text"].startswith(_QUOTES_NOTHING)):
        set_text_for_log(error, f"{called}: {where} does not fit")
    return error
