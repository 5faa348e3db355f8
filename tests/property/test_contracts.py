"""Random contracts over all kinds of types: what a caller sends is what arrives, and what comes back is what was sent.

The callers are a proxy and a generated client in Python.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import hypothesis.strategies as st
import pytest
from effort import examples
from generated import loaded
from hypothesis import HealthCheck, given, settings
from random_contracts import Call, Contract, Recorder, contracts, differs
from two_versions import as_type
from typed_values import generic, same

from wsrpc import Client, Peer, Server
from wsrpc._core.handlers.contract import read_contract
from wsrpc.codecs import MsgpackCodec
from wsrpc.codegen.python_client import client_module
from wsrpc.schema import describe
from wsrpc.testing import connect

pytestmark = pytest.mark.timeout(600)

ENDS = ["json", "negotiated", "msgpack", "socket"]
OF_JSON = ["json", "negotiated", "socket"]
"""The ends on which all is what it is in JSON. A generated client knows no more; with a `MsgpackCodec` of one's own a
datetime, for instance, is no text."""


@asynccontextmanager
async def connected(how: str, server: Server) -> AsyncGenerator[Client]:
    """Connect a client to ``server``, over a socket or in memory."""
    if how == "socket":
        async with server.listen() as listener, Client(listener.url) as client:
            yield client
        return
    options: dict[str, Any] = {"codec": MsgpackCodec()} if how == "msgpack" else {"extensions": how != "json"}
    async with connect(server, client=Client(**options)) as client:
        yield client


def new_server(how: str) -> Server:
    return Server(codec=MsgpackCodec()) if how == "msgpack" else Server(extensions=how != "json")


async def items_of(items: list[Any]) -> AsyncIterator[Any]:
    for item in items:
        yield item


def called(proxy: Any, call: Call) -> Any:
    """Make a call by a proxy or an emitter; return what the method returns."""
    member = call.member
    names = [each.name for each in member.arguments]
    by_place = [call.given[name] for name in names[: call.by_place]]
    by_name = {name: call.given[name] for name in names[call.by_place :] if name in call.given}
    if member.kind in ("upload", "exchange"):
        source = items_of(call.items)
        if member.source == "first":
            by_place.insert(0, source)
        else:
            by_name["items"] = source
    return getattr(proxy, member.name)(*by_place, *call.rest, **by_name)


async def answer_of(answer: Any, call: Call) -> Any:
    if call.member.kind == "conversation":
        async with await answer as channel:
            # Of an event `returns=` says what all its arguments are.
            answers = channel.events("answer", returns=generic(tuple, call.member.result.type))
            got: list[Any] = []
            for item in call.items:
                await channel.emit("item", item)
                got.extend(await anext(answers))
            return got
    if call.member.many:
        async with answer as stream:
            return [item async for item in stream]
    return await answer


# ---------------------------------------------------------------- generated clients


async def called_by_generated(proxy: Any, contract: Any, call: Call) -> Any:
    """Make a call by the proxy of a generated client, whose types are of its own; return the answer as it was."""
    [member] = [each for each in read_contract(contract, "this test").members if each.event == call.member.event]
    by_name: dict[str, Any] = {}
    wire = [each for each in member.parameters if each.source == "wire"]
    assert len(wire) == len(call.member.arguments)
    last = max((n for n, each in enumerate(call.member.arguments) if each.name in call.given), default=-1)
    for number, (mine, its) in enumerate(zip(call.member.arguments, wire, strict=True)):
        if mine.name in call.given:
            by_name[its.name] = as_type(call.given[mine.name], its.type)
        elif its.required or (its.default is ... and (number < last or call.rest)):
            by_name[its.name] = as_type(mine.default, its.type)  # the module does not know it
    by_place: list[Any] = []
    if call.rest:
        rest = next(each for each in member.parameters if each.source == "rest")
        by_place = [*by_name.values(), *(as_type(each, rest.type) for each in call.rest)]
        by_name = {}
    if member.source is not None:
        sent = [as_type(item, member.source.type) for item in call.items]
        by_name[member.source.name] = items_of(sent)
    answer = await answer_of(getattr(proxy, member.name)(*by_place, **by_name), call)
    if call.member.kind == "conversation":
        return answer
    if call.member.many:
        return [as_type(item, call.member.result.type) for item in answer]
    return as_type(answer, call.member.result.type)


# ---------------------------------------------------------------- tests


async def play(contract: Contract, how: str, channel: str | None, *, by_generated: bool = False) -> None:
    """Make the calls of a contract by a proxy, or by a generated client.

    Args:
        channel: the channel of the contract; None for the main one, "attribute" for one that another contract names.
    """
    server = new_server(how)
    implementation = contract.implementation()
    if channel == "attribute":
        server.implement(contract.outer, types.SimpleNamespace(chat=implementation))
    else:
        (server if channel is None else server.of(channel)).implement(contract.protocol, implementation)
    async with connected(how, server) as client:
        if not by_generated:
            if channel == "attribute":
                proxy = client.proxy(contract.outer).chat
            else:
                proxy = (client if channel is None else client.of(channel)).proxy(contract.protocol)
            await check(contract, implementation.recorder, lambda call: answer_of(called(proxy, call), call))
            return
        with loaded(client_module(describe(server))) as module:
            make, protocol = (module.main, module.Main) if channel is None else (module.chat, module.Chat)
            proxy = make(client)
            await check(contract, implementation.recorder, lambda call: called_by_generated(proxy, protocol, call))


async def play_events(contract: Contract, how: str, channel: str | None, source: str) -> None:
    """Emit the events of a contract from a client, a peer of the server, the server or a room."""
    server = new_server(how)
    implementation = contract.implementation()
    async with connected(how, server) as client:
        [peer] = server.peers
        server.room("all").add(peer)
        emitting: Any = {"client": client, "peer": peer, "server": server, "room": server.room("all")}[source]
        asking: Client | Peer = client if source == "client" else peer
        target: Client | Server = server if source == "client" else client
        target.on("arrived", lambda: None)
        (target if channel is None else target.of(channel)).implement(contract.protocol, implementation)
        emitter = (emitting if channel is None else emitting.of(channel)).emitter(contract.protocol)

        async def emit(call: Call) -> Any:
            emitted = called(emitter, call)
            if call.member.style == "async def":
                await emitted
            await asking.request("arrived")
            return call.answer

        await check(contract, implementation.recorder, emit)


async def check(contract: Contract, recorder: Recorder, calling: Callable[[Call], Awaitable[Any]]) -> None:
    for call in contract.calls:
        recorder.will_answer(call)
        answer = await calling(call)
        assert same(answer, call.answer), f"{call.member.name}: {call.answer} was answered, and {answer} came"
        [arrived] = recorder.calls
        assert (difference := differs(call, arrived)) is None, difference
        recorder.calls.clear()


def place_of(contract: Contract, wanted: str | None) -> str | None:
    """Return the channel of a contract. Names of lifecycle events cannot be on the main channel."""
    return wanted or ("chat" if any(member.event == "close" for member in contract.members) else None)


@settings(max_examples=examples(80), suppress_health_check=[HealthCheck.too_slow])
@given(contracts(), st.sampled_from(ENDS), st.sampled_from([None, "chat", "attribute"]))
def test_a_proxy_says_what_was_meant(contract: Contract, how: str, channel: str | None) -> None:
    asyncio.run(play(contract, how, place_of(contract, channel)))


@settings(max_examples=examples(60), suppress_health_check=[HealthCheck.too_slow])
@given(contracts(), st.sampled_from(OF_JSON), st.sampled_from([None, "chat"]))
def test_a_generated_client_says_what_was_meant(contract: Contract, how: str, channel: str | None) -> None:
    asyncio.run(play(contract, how, place_of(contract, channel), by_generated=True))


@settings(max_examples=examples(60), suppress_health_check=[HealthCheck.too_slow])
@given(
    contracts(kinds=["event"]),
    st.sampled_from(ENDS),
    st.sampled_from([None, "chat"]),
    st.sampled_from(["client", "peer", "server", "room"]),
)
def test_an_emitter_says_what_was_meant(contract: Contract, how: str, channel: str | None, source: str) -> None:
    asyncio.run(play_events(contract, how, place_of(contract, channel), source))
