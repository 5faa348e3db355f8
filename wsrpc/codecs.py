"""Codecs: how messages are encoded. Hooks: how values of other types are converted."""

from ._core.wire.codecs import Codec, JsonCodec, MsgpackCodec
from ._core.wire.messages import WireMessage as Inbound
from ._values.convert import DecHook, EncHook

__all__ = [
    "Codec",
    "DecHook",
    "EncHook",
    "Inbound",
    "JsonCodec",
    "MsgpackCodec",
]
