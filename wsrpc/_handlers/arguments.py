"""What the caller is told when the arguments do not fit the handler."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from .._base.introspection import Parameter
from ..errors import BadArguments

__all__ = ["ArgumentsRefused", "Explainer"]


class ArgumentsRefused(Exception):
    """The arguments do not fit and the handler did not run. ``error`` is for the caller.

    A class of its own, because a `BadArguments` that comes out of a call may also be the user's, from a
    nested request, and that one is not the caller's fault.
    """

    def __init__(self, error: BadArguments) -> None:
        super().__init__(error)
        self.error = error


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


_WIRE_TYPES = frozenset({"null", "bool", "int", "float", "str", "bytes", "array", "object"})
"""What msgspec says that it got, where it does not quote the value."""


class Explainer:
    """Turns a failed conversion into an error that names the parameter.

    Apart from the `Handler`, so that the generated call can refer to it without a reference cycle.
    """

    __slots__ = ("_parameters", "_required", "_rest")

    def __init__(self, parameters: tuple[Parameter, ...]) -> None:
        self._parameters = [p for p in parameters if p.source == "wire"]
        self._required = sum(p.required for p in self._parameters)
        self._rest = next((p for p in parameters if p.source == "rest"), None)

    def refused(self, exc: msgspec.ValidationError | None, a: list[Any], in_rest: bool = False) -> ArgumentsRefused:
        return ArgumentsRefused(self.explain(exc, a, in_rest))

    def explain(self, exc: msgspec.ValidationError | None, a: list[Any], in_rest: bool = False) -> BadArguments:
        """What is wrong with ``a`` (the event's name and the arguments), which ``exc`` was raised for.

        ``exc`` is None where only the number of arguments can be wrong. ``in_rest`` says that it comes from
        converting what ``*args`` takes, where msgspec's path begins with ``$[0][…]``; otherwise the path
        begins with the place in ``a``.
        """
        got, most = max(len(a) - 1, 0), len(self._parameters)
        # The name that the caller knows the handler by; the one of `on_json`, or of the event "", has none.
        called = f"{a[0][:64]}()" if a and a[0] and isinstance(a[0], str) else "handler"
        if got < self._required:
            missing = self._parameters[got].name
            least = _count(self._required)
            if most != self._required or self._rest is not None:
                least = f"at least {least}"
            return BadArguments(
                f"{called}: missing argument {missing!r}: expected {least}, got {got}",
                data={"parameter": missing, "expected": self._required, "got": got},
            )
        if got > most and self._rest is None:
            bound = f"at most {_count(most)}" if most else "no arguments"
            return BadArguments(f"{called}: expected {bound}, got {got}", data={"expected": most, "got": got})
        found = _AT.fullmatch(str(exc))
        index = int(found["index"]) if found else 0
        parameter = self._rest if in_rest else self._parameters[index - 1] if 0 < index <= most else None
        if found is None or parameter is None:  # a text that msgspec did not write
            error = BadArguments(f"{called}: {_bounded(str(exc))}")
            error._for_log = f"{called}: its arguments do not fit"
            return error
        path = found["path"]
        # Which key it was, msgspec does not say.
        where = f"{'a key of ' if found['key'] else ''}argument {parameter.name!r}"
        where += _bounded(path) if path else f" ({_ordinal(index)})"
        text = _bounded(found["text"])
        data = {"parameter": parameter.name}
        if path:
            data["path"] = _bounded(path)
        if wanted := _EXPECTED.fullmatch(text):
            text = text.replace("Expected", "expected", 1).replace("`", "")
            data.update({key: value.replace("`", "") for key, value in wanted.groupdict().items() if value})
        error = BadArguments(f"{called}: {where}: {text}", data=data)
        if data.get("got") not in _WIRE_TYPES:
            error._for_log = f"{called}: {where} does not fit"
        return error
