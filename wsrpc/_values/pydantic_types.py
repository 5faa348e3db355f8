"""Validation and encoding by pydantic, which is imported only when it is used.

In JSON and in MessagePack, a model is encoded as pydantic's own JSON, and validated by pydantic's rules for JSON. So a
model with ``strict=True`` accepts a datetime as text, and a tuple as an array.

An annotation that msgspec cannot enforce, such as ``PositiveInt``, is validated by pydantic as a whole. For msgspec, it
is a class, `Adapted`, like a model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, cast

# Like msgspec's validation, this one stops at the first item of a collection that does not fit. pydantic by itself
# describes each wrong item: for one message of 3 MB, with 900,000 wrong items, it needs 4 seconds and 800 MB.

_MOST_CACHED = 4096
"""Maximum number of cached validators and serializers. Programs have fewer models."""


class Adapted(type):
    """A class that stands for an annotation. msgspec takes any value that the hook returns for an instance of it."""

    def __instancecheck__(cls, instance: object) -> bool:
        return True


def adapted(tp: Any, name: str) -> Any:
    """Return the class that stands for an annotation, of which errors say the name.

    Raises:
        TypeError: pydantic cannot validate it, or is not installed. Or it has aliases, which only models are sent with.
    """

    def core_schema(cls: Any, source: Any, handler: Any) -> Any:
        return handler.generate_schema(tp)

    try:
        made = Adapted(name, (), {"__get_pydantic_core_schema__": classmethod(core_schema)})
        pydantic_validator(made)
        if alias := _alias_in(core_schema_of(made)):
            raise TypeError(f"only pydantic models are sent with aliases such as {alias!r}: make its class a model")
    except ImportError as exc:
        raise TypeError(f"pydantic has to validate this annotation: {exc}") from exc
    except (RuntimeError, NameError) as exc:  # what pydantic raises for a type that it does not know
        why = str(exc).partition("\n")[0]
        raise TypeError(f"pydantic cannot validate {name}: {why}") from exc
    return made


def _alias_in(schema: dict[str, Any]) -> Any:
    """Return an alias of a field outside of models. None: there is none."""
    if schema["type"] == "model":
        return None
    if own := schema.get("validation_alias") or schema.get("serialization_alias"):
        return own
    inner = (each for part in _inner(schema).values() for each in _schemas_in(part))
    return next((found for each in inner if (found := _alias_in(each))), None)


def is_pydantic(tp: Any) -> bool:
    """Whether a type is a pydantic model, or stands for an annotation of pydantic's. Does not import pydantic."""
    if isinstance(tp, Adapted):
        return True
    return isinstance(tp, type) and hasattr(tp, "__pydantic_validator__") and hasattr(tp, "model_validate")


def has_core_schema(cls: Any) -> bool:
    """Whether a class says how pydantic validates it, as ``HttpUrl`` does."""
    return hasattr(cls, "__get_pydantic_core_schema__")


_MOST_DESCRIBED = 100
"""With more errors than this, only their number is reported: pydantic describes all of them or none."""


class Misfit(ValueError):
    """A value does not fit a type that pydantic validates."""

    def __init__(self, text: str, path: str) -> None:
        super().__init__(text)
        self.path = path
        """The place of the first error in the value, in msgspec's form: ``.cups[0].size``."""


def misfit(exc: ValueError, value: Any) -> Misfit:
    """Return the error for an exception of pydantic: one line of text, without values, which may be large or secret."""
    if not hasattr(exc, "errors"):
        return Misfit(str(exc), "")
    error = cast(Any, exc)
    count: int = error.error_count()
    if count > _MOST_DESCRIBED:
        return Misfit(f"{count} errors", "")
    found = error.errors(include_url=False, include_context=False, include_input=False)[:3]
    paths = [".".join(map(str, each["loc"])) for each in found]
    parts = [f"{path}: {each['msg']}" if path else each["msg"] for path, each in zip(paths, found, strict=True)]
    if count > len(parts):
        parts.append(f"and {count - len(parts)} more")
    return Misfit("; ".join(parts), _place(found[0]["loc"], value))


def _place(steps: tuple[int | str, ...], value: Any) -> str:
    """Return the part of pydantic's path that is in the value, without missing fields and names of types in unions."""
    place = ""
    for step in steps:
        try:
            value = value[step]
        except (LookupError, TypeError):
            break
        place += f"[{step}]" if isinstance(step, int) else f".{step}"
    return place


@lru_cache(maxsize=_MOST_CACHED)
def pydantic_validator(tp: Any) -> Callable[[Any], Any]:
    """Make a function that converts decoded JSON or MessagePack to the model ``tp``.

    The function raises pydantic's own exception, which is a `ValueError`.

    Raises:
        TypeError: the model does not say how bytes are written in JSON.
    """
    if _overrides(tp, "model_validate"):
        validate: Callable[[Any], Any] = tp.model_validate
        return validate
    import pydantic_core

    schema = _checked_schema(tp)
    make: Any = pydantic_core.SchemaValidator
    try:
        # Otherwise pydantic uses the validators that it has already built for the models, in place of the schema.
        validate_json = make(_fail_fast(schema), _use_prebuilt=False).validate_json
    except TypeError as exc:  # pydantic is older than 2.13
        if "_use_prebuilt" not in str(exc):
            raise
        validate_json = _adapter(tp).validate_json
    mode = getattr(tp, "model_config", {}).get("val_json_bytes", "base64")
    # pydantic accepts JSON only as text, so the value is encoded again. Values that only MessagePack has (bytes,
    # datetimes, keys that are not text, NaN) are validated as their JSON.
    return lambda value: validate_json(pydantic_core.to_json(value, bytes_mode=mode, inf_nan_mode="constants"))


@lru_cache(maxsize=_MOST_CACHED)
def pydantic_dumper(tp: Any) -> Callable[[Any, Callable[[Any], Any]], Any]:
    """Make a function that converts an instance of the model ``tp``, or of a class with a core schema, to decoded JSON.

    Its second argument is a function that converts values of other libraries, such as msgspec's Structs. Fields have
    the names that validation on the other side reads: their aliases, if they have any.

    Raises:
        TypeError: the model does not say how bytes are written in JSON, or would not read what pydantic writes.
    """
    if not _overrides(tp, "model_dump") and (why := _unreadable(_checked_schema(tp), tp.__qualname__)):
        raise TypeError(f"{tp.__qualname__} cannot be sent: {why}")
    if hasattr(tp, "model_dump"):
        return lambda value, fallback: value.model_dump(mode="json", by_alias=True, fallback=fallback)
    dump = _adapter(tp).dump_python
    return lambda value, fallback: dump(value, mode="json", by_alias=True, fallback=fallback)


def _overrides(tp: Any, method: str) -> bool:
    from pydantic import BaseModel

    base: Any = getattr(BaseModel, method)
    return bool(getattr(tp, method, base).__qualname__ != base.__qualname__)


def _adapter(tp: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(tp)


def core_schema_of(tp: Any) -> dict[str, Any]:
    """Return pydantic's core schema of a model."""
    return cast("dict[str, Any]", _adapter(tp).core_schema)


def _checked_schema(tp: Any) -> dict[str, Any]:
    """Return the core schema of a model, if bytes in it cannot be lost.

    By default, pydantic writes bytes as UTF-8 text, which most bytes are not, and reads base64 as if it were the bytes.
    """
    schema = core_schema_of(tp)
    if _holds_plain_bytes(schema, chosen=False):
        config = 'model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")'
        raise TypeError(
            f"{tp.__qualname__} holds bytes, which pydantic takes for UTF-8 text: give the class of the field {config}"
        )
    return schema


def _holds_plain_bytes(schema: dict[str, Any], chosen: bool) -> bool:
    """Whether a core schema has bytes for which neither a config nor a serializer chooses the form in JSON."""
    if config := schema.get("config"):
        chosen = config.keys() >= _BYTES_OPTIONS
    serialization: Any = schema.get("serialization") or {}
    chosen = chosen or serialization.get("type") == "function-plain"
    if schema["type"] == "bytes":
        return not chosen
    return any(_holds_plain_bytes(each, chosen) for part in _inner(schema).values() for each in _schemas_in(part))


def _unreadable(schema: dict[str, Any], owner: str) -> str:
    """Return what of a value a model would not read as pydantic writes it, and what to do. Empty if there is nothing.

    Args:
        owner: the model and the field to which the core schema belongs.
    """
    plain: dict[str, Any] = schema.get("serialization") or {}
    if plain.get("type") == "function-plain":
        home, name = (getattr(plain["function"], each, "") for each in ("__module__", "__name__"))
        masks = home == "pydantic.types" and name.startswith("_serialize_secret")
        return f"pydantic masks {owner}, a secret: write a @field_serializer, or make it a str" if masks else ""
    if schema.get("serialization_exclude"):
        return ""
    inner = [(owner, each) for part in _inner(schema).values() for each in _schemas_in(part)]
    if schema["type"] == "model-fields":
        inner = [(f"{schema['model_name']}.{name}", each) for name, each in schema["fields"].items()]
    elif schema["type"] == "model" and schema.get("config", {}).get("extra_fields_behavior") == "forbid":
        for each in schema["schema"].get("computed_fields", ()):
            name = f"{schema['cls'].__qualname__}.{each['property_name']}"
            return f"{name} is computed, and extra='forbid' refuses it where it arrives: use extra='ignore'"
    return next((why for part, each in inner if (why := _unreadable(each, part))), "")


def _inner(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the parts of a core schema that hold other schemas."""
    return {key: part for key, part in schema.items() if key in _INNER or key.endswith("schema")}


def _schemas_in(part: Any) -> Iterator[dict[str, Any]]:
    """Yield the schemas in a part of a core schema: a schema, a list, or a mapping by the name of a field or a tag."""
    if part.__class__ is dict and isinstance(part.get("type"), str):
        yield part
    elif part.__class__ in (dict, list, tuple):
        for each in part.values() if part.__class__ is dict else part:
            yield from _schemas_in(each)


_BYTES_OPTIONS = frozenset({"ser_json_bytes", "val_json_bytes"})
_INNER = frozenset({"fields", "computed_fields", "choices", "steps", "definitions"})
"""Keys of a core schema that hold other schemas, besides those that end with ``schema``. (Values under ``default`` or
``expected`` are the user's.)"""
_ITEMS = ("items_schema", "keys_schema", "values_schema")


def _fail_fast(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a core schema that validates collections up to the first wrong item."""
    inside = {key: _with_fail_fast(part) for key, part in _inner(schema).items()}
    is_collection = any(key in schema for key in _ITEMS)
    return {**({"fail_fast": True} if is_collection else {}), **schema, **inside}


def _with_fail_fast(part: Any) -> Any:
    """Return a part of a core schema: a schema, a list of them, or a mapping by name of a field or tag of a union."""
    cls: Any = part.__class__
    if cls in (list, tuple):
        items: list[Any] = [_with_fail_fast(item) for item in part]
        return items if cls is list else tuple(items)
    if cls is not dict:
        return part  # the label of a union's member
    if isinstance(part.get("type"), str):
        return _fail_fast(part)
    return {name: _with_fail_fast(item) for name, item in part.items()}
