"""For types of all kinds, values of the server's type are values of the generated one, and the reverse."""

from __future__ import annotations

from typing import Any, get_type_hints

import hypothesis.strategies as st
import msgspec
import pytest
from effort import examples
from generated import check_statements, check_types, loaded
from hypothesis import HealthCheck, given, settings
from typed_values import Typed, same, types

from wsrpc import Server
from wsrpc._conversion.convert import converter, make_enc_hook
from wsrpc.python_client import client_module
from wsrpc.schema import describe

encode = msgspec.json.Encoder(enc_hook=make_enc_hook(None)).encode


def server_for(tp: Any) -> Server:
    namespace: dict[str, Any] = {"T": tp}
    exec("def handler(value: T) -> T: ...", namespace)
    server = Server()
    server.on("call", namespace["handler"])
    return server


@pytest.mark.parametrize("models", ["structs", "dataclasses"])
@settings(max_examples=examples(300), suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(types, st.data())
def test_values_of_the_server_are_values_of_the_module(models: Any, found: Typed, data: st.DataObject) -> None:
    text = client_module(describe(server_for(found.type)), models=models)
    check_statements(text)
    with loaded(text) as module:
        check_types(module)
        hints = get_type_hints(module.Main.call, include_extras=True)
        on_the_server = converter(found.type)
        for _ in range(3):
            sent = encode(data.draw(found.values))
            for tp in (hints["return"], hints["value"]):
                again = encode(converter(tp)(msgspec.json.decode(sent)))
                # Compared as the server reads them: sets have no order, and 1 is 1.0 where a float is meant.
                assert same(on_the_server(msgspec.json.decode(again)), on_the_server(msgspec.json.decode(sent)))
