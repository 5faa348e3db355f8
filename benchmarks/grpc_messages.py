"""The messages and method names of the gRPC servers and clients, as protoc would generate them.

Its users have protobuf messages, so the benchmark has them, too: made here from a description at run time, which gives
the same classes as a generated module does. The service is registered with generic handlers, as generated code does it.

    message Add { int64 a = 1; int64 b = 2; }
    message Sum { int64 value = 1; }
    message Blob { bytes data = 1; }
    message Text { string text = 1; }
    message Item { int64 n = 1; double x = 2; }
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

SERVICE = "bench.Bench"

_FIELD = descriptor_pb2.FieldDescriptorProto
_INT, _BYTES, _STRING, _DOUBLE = _FIELD.TYPE_INT64, _FIELD.TYPE_BYTES, _FIELD.TYPE_STRING, _FIELD.TYPE_DOUBLE

_MESSAGES: dict[str, dict[str, Any]] = {
    "Add": {"a": _INT, "b": _INT},
    "Sum": {"value": _INT},
    "Blob": {"data": _BYTES},
    "Text": {"text": _STRING},
    "Item": {"n": _INT, "x": _DOUBLE},
}


def _classes() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="bench.proto", package="bench", syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, (field, type) in enumerate(fields.items(), 1):
            message.field.add(name=field, number=number, type=type, label=_FIELD.LABEL_OPTIONAL)
    return dict(message_factory.GetMessageClassesForFiles(["bench.proto"], _pool(file)))


def _pool(file: Any) -> Any:
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return pool


_made = _classes()
Add, Sum, Blob, Text, Item = (_made[f"bench.{name}"] for name in _MESSAGES)

METHODS: dict[str, tuple[Any, Any]] = {
    "Add": (Add, Sum),
    "Echo": (Text, Text),
    "EchoBytes": (Blob, Blob),
    "Note": (Sum, Sum),
    "Items": (Sum, Item),
    "Download": (Sum, Blob),
    "Upload": (Blob, Sum),
}
"""What each method takes and gives."""


def path(method: str) -> str:
    return f"/{SERVICE}/{method}"
