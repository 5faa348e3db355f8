"""Random contracts over all kinds of types: what a caller sends is what arrives, and what comes back is what was sent.

The callers are a proxy and a generated client in Python. interop/test_contracts_typescript.py has that in TypeScript.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import hypothesis.strategies as st
from effort import examples
from hypothesis import HealthCheck, given, settings
from random_contracts import Call, Contract, contracts, differs, tables
from typed_values import same

from wsrpc import Client, MsgpackCodec, Server
from wsrpc.testing import connect

ENDS = ["json", "negotiated", "msgpack", "socket"]


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


async def items_of(call: Call) -> AsyncIterator[Any]:
    for item in call.items:
        yield item


async def called(proxy: Any, call: Call) -> Any:
    """Make a call by a proxy; return its answer, or all items of one."""
    member = call.member
    names = [each.name for each in member.arguments]
    by_place = [call.given[name] for name in names[: call.by_place]]
    by_name = {name: call.given[name] for name in names[call.by_place :] if name in call.given}
    if member.kind in ("upload", "exchange"):
        source = items_of(call)
        if member.source == "first":
            by_place.insert(0, source)
        else:
            by_name["items"] = source
    return await answer_of(getattr(proxy, member.name)(*by_place, *call.rest, **by_name), call)


async def answer_of(answer: Any, call: Call) -> Any:
    if call.member.kind == "conversation":
        async with await answer as channel:
            answers = channel.events("answer", returns=call.member.result.type)
            got: list[Any] = []
            for item in call.items:
                await channel.emit("item", item)
                got.append(await anext(answers))
            return got
    if call.member.many:
        async with answer as stream:
            return [item async for item in stream]
    return await answer


async def play(contract: Contract, how: str, channel: str | None) -> None:
    server = new_server(how)
    implementation = contract.implementation()
    (server if channel is None else server.of(channel)).implement(contract.protocol, implementation)
    recorder = implementation.recorder
    async with connected(how, server) as client:
        proxy = (client if channel is None else client.of(channel)).proxy(contract.protocol)
        for call in contract.calls:
            recorder.will_answer(call)
            answer = await called(proxy, call)
            assert same(answer, call.answer), f"{call.member.name}: {call.answer} was answered, and {answer} came"
            [arrived] = recorder.calls
            assert (difference := differs(call, arrived)) is None, difference
            recorder.calls.clear()


def place_of(contract: Contract, wanted: str | None) -> str | None:
    """Return the channel of a contract. Names of lifecycle events cannot be on the main channel."""
    return wanted or ("chat" if any(member.event == "close" for member in contract.members) else None)


@settings(max_examples=examples(60), suppress_health_check=[HealthCheck.too_slow])
@given(contracts(), st.sampled_from(ENDS), st.sampled_from([None, "chat"]))
def test_a_proxy_says_what_was_meant(contract: Contract, how: str, channel: str | None) -> None:
    asyncio.run(play(contract, how, place_of(contract, channel)))


@settings(max_examples=examples(5), suppress_health_check=[HealthCheck.too_slow])
@given(tables(), st.sampled_from(ENDS))
def test_every_type_of_the_docs_travels(contract: Contract, how: str) -> None:
    asyncio.run(play(contract, how, None))
