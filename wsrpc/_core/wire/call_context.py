"""`CallContext`: what travels with an event or a request besides its arguments, between peers with this feature.

A further field needs no feature of its own, because a peer ignores the fields that it does not know.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any

from msgspec import UNSET, Meta, Struct, UnsetType, ValidationError, convert

from ..._base.names import LONGEST_NAME
from ...errors import BadArguments, made_here, short

MAX_ENTRIES = 32
"""Maximum number of entries of metadata."""
MAX_BYTES = 4096
"""Maximum bytes of all names and values of metadata in UTF-8."""
MAX_MS = 2**31 - 1
"""The longest remaining time that travels, in milliseconds: about 25 days. It is the longest timer of JavaScript."""
MAX_REMAINING = MAX_MS / 1000
"""The longest remaining time that travels, in seconds."""

Metadata = Annotated[dict[Annotated[str, Meta(min_length=1, max_length=64)], str], Meta(max_length=MAX_ENTRIES)]
Key = Annotated[str, Meta(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f]+\Z")]
Position = Annotated[int, Meta(ge=0, le=2**53 - 1)] | Annotated[str, Meta(min_length=1, max_length=64)]
MessageId = Annotated[str, Meta(min_length=1, max_length=64)]
At = tuple[Annotated[str, Meta(min_length=1, max_length=LONGEST_NAME)], Annotated[str, Meta(max_length=64)]]

_is_name = re.compile(r"[!-~]+").fullmatch


class CallContext(Struct):
    """What travels with an event or a request besides its arguments.

    Attributes:
        metadata: the caller's names and values.
        key: the key of the call: it runs once, and other calls with this key get its result or its items.
        message: the id of a message for the run with this key. The message is the last argument.
        after: the position after which the items begin: the number of items to skip, or `Stream.position`.
        remaining_ms: the time that was left to the caller when the message was encoded, in milliseconds. Relative,
            because the clocks of the two sides may differ.
        at: for an event of a room with a log: the name of the room, and the position of the event in the log. Without a
            log, the position is empty, and only clients of this process are told (`Settings.local`).
        upload: whether the caller sends items and reads only a result. A handler that yields items refuses: each side
            would wait for the other.
    """

    metadata: Metadata | UnsetType = UNSET
    key: Key | UnsetType = UNSET
    message: MessageId | UnsetType = UNSET
    after: Position | UnsetType = UNSET
    remaining_ms: Annotated[int, Meta(ge=0, le=MAX_MS)] | UnsetType = UNSET
    at: At | UnsetType = UNSET
    upload: bool | UnsetType = UNSET

    @property
    def must_arrive(self) -> bool:
        """Whether it has more than the remaining time, which matters less, because a cancellation follows."""
        return self.metadata is not UNSET or self.key is not UNSET


class StrictCallContext(CallContext, forbid_unknown_fields=True):
    """A `CallContext` as nearly all peers send it; see `StrictMessage`."""


def read_call_context(value: Any, size: int = 0) -> CallContext:
    """Return the context of a received message of ``size`` bytes. Without a size, its bytes were checked before.

    Raises:
        BadArguments: it is not valid, or exceeds a limit. The text says why.
    """
    try:
        context = value if isinstance(value, CallContext) else convert(value, CallContext)
        if size and context.metadata is not UNSET:
            _check(context.metadata, size)
        if context.after is not UNSET and context.key is UNSET:
            raise ValidationError("`after` without a key")
        if context.message is not UNSET and context.key is UNSET:
            raise ValidationError("`message` without a key")
    except ValidationError as exc:
        raise made_here(BadArguments(f"its context is not valid: {exc}")) from None
    return context


def check_metadata(metadata: Any) -> dict[str, str]:
    """Return a copy of the metadata that a caller has passed.

    Raises:
        TypeError: it is not a mapping of text to text.
        ValueError: a name is not valid, or the metadata exceeds a limit.
    """
    try:
        # As a field of a struct, because msgspec remembers how to convert structs.
        checked = convert({"metadata": metadata}, CallContext).metadata
        assert checked is not UNSET
        _check(checked, MAX_BYTES + 1)
    except UnicodeEncodeError as exc:
        raise ValueError(f"metadata= is text, got {short(exc.object)}, which has half of a surrogate pair") from None
    except ValidationError as exc:
        given: list[Any] = [*metadata, *metadata.values()] if isinstance(metadata, Mapping) else [None]
        if not all(isinstance(each, str) for each in given):
            raise TypeError(f"metadata= is a mapping of text to text, got {metadata!r}") from None
        raise ValueError(
            f"metadata= has at most {MAX_ENTRIES} entries and {MAX_BYTES} bytes, and its names consist of 1 to 64 "
            f"printable ASCII characters without spaces: {exc}"
        ) from None
    return checked


def check_field(name: str, what: str, value: Any, *, option: str = "") -> Any:
    """Return the value of a field that a caller has passed, perhaps as another ``option``. ``what`` says what it is.

    Raises:
        TypeError, ValueError: it is not valid.
    """
    try:
        return getattr(convert({name: value}, CallContext), name)
    except ValidationError as exc:
        wrong = TypeError if ", got `" in str(exc) else ValueError  # msgspec tells a wrong type, or a limit
        raise wrong(f"{option or name}= is {what}, got {short(value)}") from None


def _check(metadata: dict[str, str], at_most: int) -> None:
    """Check what msgspec does not check, or would check for all of very many names, in metadata of ``at_most`` bytes.

    Raises:
        ValidationError: a name is not valid, or there are too many bytes.
    """
    for name in metadata:
        if not _is_name(name):
            raise ValidationError(f"{short(name)} is not printable ASCII without spaces")
    if at_most > MAX_BYTES:
        size = sum(len(name) + len(value.encode()) for name, value in metadata.items())
        if size > MAX_BYTES:
            raise ValidationError(f"metadata of {size} bytes, at most {MAX_BYTES} are accepted")


def milliseconds(seconds: float) -> int:
    """Return a remaining time as it travels. It is rounded up, because 0 means that no time is left."""
    return min(MAX_MS, max(0, math.ceil(seconds * 1000)))
