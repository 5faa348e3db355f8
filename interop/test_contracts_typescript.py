"""Random contracts over all kinds of types, called by a program in TypeScript: what is sent arrives, and comes back.

The contracts are those of tests/property/test_contracts.py, each on a channel of its own. One program makes all calls,
so that one compilation serves many contracts.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest
from effort import SOAK
from hypothesis import HealthCheck, given, settings
from random_contracts import Call, Contract, contracts, differs, tables
from typed_values import same

from interop.installed import build_client, install_client
from interop.node import find_node
from interop.test_typescript import HERE, output_of, project, tsc
from interop.test_typescript_property import error, written
from wsrpc import Server
from wsrpc._values.convert import converter, make_enc_hook
from wsrpc.codegen.typescript import declarations
from wsrpc.schema import describe

CONTRACTS = 600 if SOAK else 30
IMPORTS = {
    "plain-4": """\
import WebSocket from "ws"
import WebSocketWrapper from "ws-wrapper"

import type { Typed } from "./events.js"

const socket = new WebSocket(process.argv[2]!)
const server = new WebSocketWrapper(socket) as Typed<WebSocketWrapper>
""",
    "python-wsrpc": """\
import { Client, type Channel } from "python-wsrpc"
import WebSocket from "ws"

import type { Api } from "./events.js"

const server = new Client<Api>(process.argv[2]!, { WebSocket })
const socket = server
""",
}
SHOW = """\
const show = (answer: unknown) => console.log(JSON.stringify(answer === undefined ? "nothing" : answer))

"""
encode = msgspec.json.Encoder(enc_hook=make_enc_hook(None)).encode


def in_javascript(value: Any) -> str:
    return written(json.loads(encode(value)))


def arguments_of(call: Call) -> list[str]:
    """Return the arguments as a user of TypeScript gives them: an omitted one before another with its default."""
    values = call.arrives()
    member = call.member
    last = max((n for n, each in enumerate(member.arguments) if each.name in call.given), default=-1)
    return [in_javascript(value) for value in (values if call.rest else values[: last + 1])]


def program_of_client(channel: str, call: Call) -> list[str]:
    """Return the lines with which `Client` makes one call, and prints what `program` prints."""
    member = call.member
    caller, event, arguments = f'server.of("{channel}")', json.dumps(member.event), arguments_of(call)
    given = ", ".join([event, *arguments])
    sent = [in_javascript(item) for item in call.items]
    begin, end = "  const items: unknown[] = []", "  show(items)"
    match member.kind:
        case "request":
            return [f"show(await {caller}.request({given}))"]
        case "stream":
            lines = [begin, f"  for await (const item of {caller}.stream({given})) items.push(item)", end]
        case "upload":
            uploaded = ", ".join([event, f"[{', '.join(sent)}]", *arguments])
            return [f"show(await {caller}.upload({uploaded}))"]
        case "exchange":
            lines = [
                f"  const channel = await {caller}.open({given})",
                begin,
                "  const read = new Promise<void>((resolve) => {",
                '    channel.on("next", async (item) => (item.done ? resolve() : items.push(item.value)))',
                "  })",
                '  channel.emit("start")',
                *(f'  await channel.request("next", {{ value: {item}, done: false }})' for item in sent),
                '  const end = channel.request("next", { done: true })',
                "  await end",
                "  await read",
                end,
                "  channel.close()",
            ]
        case "conversation":
            lines = [
                begin,
                f"  const channel: Channel = await {caller}.open({given})",
                "  let heard = (_: unknown) => {}",
                '  channel.on("answer", (item) => heard(item))',
                *(
                    f'  items.push(await new Promise((resolve) => {{ heard = resolve; channel.emit("item", {item}) }}))'
                    for item in sent
                ),
                end,
                "  channel.close()",
            ]
    return ["{", *lines, "}"]


def program(channel: str, call: Call) -> list[str]:
    """Return the lines that make one call, and print one line: the answer, or the items of one."""
    member = call.member
    given = ", ".join([json.dumps(member.event), *arguments_of(call)])
    request = f'await server.of("{channel}").request({given})'
    sent = [f"  await answer.request('next', {{ value: {in_javascript(item)}, done: false }})" for item in call.items]
    end = "await answer.request('next', { done: true })"
    read = "for await (const item of answer) items.push(item)"
    match member.kind:
        case "request":
            return [f"show({request})"]
        case "stream":
            lines = ["  const items: unknown[] = []", f"  {read}", "  show(items)"]
        case "upload":
            lines = [*sent, f"  show({end})"]
        case "exchange":
            # What is sent is taken once the items are read.
            reading = f"  const reading = (async () => {{ {read} }})()"
            lines = ["  const items: unknown[] = []", reading, *sent, f"  {end}", "  await reading", "  show(items)"]
        case "conversation":
            lines = [
                "  const items: unknown[] = []",
                "  let heard = (_: unknown) => {}",
                "  answer.on('answer', (item) => heard(item))",
            ]
            for item in call.items:
                emitted = f"answer.emit('item', {in_javascript(item)})"
                lines.append(f"  items.push(await new Promise((resolve) => {{ heard = resolve; {emitted} }}))")
            lines.append("  show(items)")
    return ["{", f"  const answer = {request}", *lines, "  answer.close()", "}"]


@pytest.mark.timeout(3600 if SOAK else 90)
@pytest.mark.parametrize("library", IMPORTS)
async def test_a_client_in_typescript_says_what_was_meant(library: str, tmp_path: Path) -> None:
    found: list[Contract] = []

    @settings(max_examples=CONTRACTS, database=None, suppress_health_check=list(HealthCheck))
    @given(contracts())
    def collect(contract: Contract) -> None:
        found.append(contract)

    @settings(max_examples=3, database=None, suppress_health_check=list(HealthCheck))
    @given(tables())
    def collect_tables(contract: Contract) -> None:
        found.append(contract)

    collect()
    collect_tables()
    assert len(found) >= CONTRACTS
    server = Server()
    implementations: list[Any] = []
    lines: list[str] = []
    for number, contract in enumerate(found):
        implementations.append(contract.implementation())
        server.of(f"c{number}").implement(contract.protocol, implementations[-1])
        for call in contract.calls:
            implementations[-1].recorder.will_answer(call)
            lines += (program if library == "plain-4" else program_of_client)(f"c{number}", call)

    if library == "plain-4":
        files = [*project(library, tmp_path), "events.d.ts", "program.ts"]
    else:
        (tmp_path / "package").mkdir()
        install_client(build_client(tmp_path / "package"), tmp_path)
        shutil.copy(HERE / "node.d.ts", tmp_path)
        (tmp_path / "package.json").write_text('{"type": "module"}', "utf-8")
        files = ["node.d.ts", "events.d.ts", "program.ts"]
    (tmp_path / "events.d.ts").write_text(declarations(describe(server)), "utf-8")
    (tmp_path / "program.ts").write_text(IMPORTS[library] + SHOW + "\n".join([*lines, "socket.close()", ""]), "utf-8")
    assert [error(tmp_path, *each) for each in await tsc(tmp_path, *files)] == []
    async with server.listen() as listener:
        printed = await output_of(find_node(), str(tmp_path / "out" / "program.js"), listener.url, folder=tmp_path)

    answers = iter(printed.removesuffix("\n").split("\n"))
    for contract, implementation in zip(found, implementations, strict=True):
        for call, arrived in zip(contract.calls, implementation.recorder.calls, strict=True):
            assert (difference := differs(call, arrived)) is None, difference
            answer = json.loads(next(answers))
            convert = converter(call.member.result.type)
            got = [*map(convert, answer)] if several(call) else convert(answer)
            assert same(got, call.answer), f"{call.member.name}: {call.answer} was answered, and {got} came"
    assert list(answers) == []


def several(call: Call) -> bool:
    return call.member.many or call.member.kind == "conversation"
