"""Codecs: how messages are encoded. Hooks: how values of other types are converted."""

from ._conversion.convert import DecHook, EncHook
from ._protocol.codecs import Codec, JsonCodec, MsgpackCodec
from ._protocol.messages import WireMessage as Inbound

__all__ = [
    "Codec",
    "DecHook",
    "EncHook",
    "Inbound",
    "JsonCodec",
    "MsgpackCodec",
]
