"""Each public method of the asynchronous classes has a blocking one with the same parameters, or stands in a table."""

from __future__ import annotations

import inspect
from typing import Any, get_overloads

import pytest

import wsrpc
import wsrpc.blocking
import wsrpc.cluster

NAMES = [name for name in wsrpc.blocking.__all__ if name not in ("Stream", "upload")]

MADE_BY_USERS = ("Client", "ClusterClient")

EVENT_LOOP = "it belongs to an event loop"
MIDDLEWARE = "middleware awaits what it wraps, so it belongs to an event loop"
SERVER = "it is for the peers of a server"

NO_RUN = "the handler of a call with a key is an `async def`"

LEFT_OUT = {
    "*.use": MIDDLEWARE,
    "Client.use_outgoing": MIDDLEWARE,
    "Client.include": "a router may hold coroutine functions and middleware",
    "Client.bind": EVENT_LOOP,
    "*.follow": "continue with `stream(..., after=)`",
    "Client.room": EVENT_LOOP,
    "Client.store=": NO_RUN,
    "Client.key_owner=": NO_RUN,
    "Peer.bind": EVENT_LOOP,
    "Peer.transport": EVENT_LOOP,
    "Peer.wait_connected": SERVER,
    "Peer.server": SERVER,
    "Peer.rooms": SERVER,
    "Peer.address": SERVER,
}
"""Methods, properties and parameters that a blocking class does not have, and why."""

ON_INSTANCES = {"Peer": {"id", "state", "principal", "ignored"}, "AnonymousChannel": {"id"}}
"""Attributes that the asynchronous classes set in their constructors."""


def asynchronous_form(name: str) -> Any:
    """Return the class of which `wsrpc.blocking` has one with the same name."""
    return getattr(wsrpc.cluster if name in wsrpc.cluster.__all__ else wsrpc, name)


def public(cls: type[Any]) -> set[str]:
    return {name for name in dir(cls) if not name.startswith("_")}


@pytest.mark.parametrize("name", NAMES)
def test_a_blocking_class_has_what_the_asynchronous_one_has(name: str) -> None:
    asynchronous = public(asynchronous_form(name)) | ON_INSTANCES.get(name, set())
    left_out = {each for each in asynchronous if f"{name}.{each}" in LEFT_OUT or f"*.{each}" in LEFT_OUT}
    assert public(getattr(wsrpc.blocking, name)) == asynchronous - left_out


def parameters(function: Any) -> dict[str, tuple[Any, Any]]:
    found = inspect.signature(function).parameters.values()
    # A default of the class `object` says that nothing was given.
    return {each.name: (each.kind, None if type(each.default) is object else each.default) for each in found}


@pytest.mark.parametrize("name", NAMES)
def test_a_blocking_method_takes_the_same_arguments(name: str) -> None:
    classes: list[Any] = [asynchronous_form(name), getattr(wsrpc.blocking, name)]
    for method in sorted(public(classes[1]) | {"__init__"}):
        functions: list[Any] = [getattr(cls, method, None) for cls in classes]
        asynchronous, blocking = functions
        if not inspect.isfunction(asynchronous) or (method == "__init__" and name not in MADE_BY_USERS):
            continue
        owner = name if method == "__init__" else method
        forms: list[tuple[Any, Any]] = [(asynchronous, blocking)]
        if blocking_forms := get_overloads(blocking):
            forms += zip(get_overloads(asynchronous), blocking_forms, strict=True)
        for expected, made in forms:
            wanted = {each: how for each, how in parameters(expected).items() if f"{owner}.{each}=" not in LEFT_OUT}
            assert [*parameters(made).items()] == [*wanted.items()], method
