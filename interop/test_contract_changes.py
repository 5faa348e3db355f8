"""Each rule of `wsrpc diff`, played by generated TypeScript in both roles: nothing is worse than the table says.

A page does not check what it receives. So what arrives is also written into a program, for the compiler to compare with
the types: where it finds an error, the page reads what it was not made for.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from contract_changes import CASES, Case
from effort import examples
from hypothesis import HealthCheck, Phase, given, settings
from programs import start
from random_versions import pairs
from two_versions import Version, as_own, in_json, outcome

from interop.installed import build_client, install_client
from interop.node import find_node
from interop.test_typescript import HERE, tsc
from wsrpc import Limits, Peer, Server, WsrpcError
from wsrpc._core.handlers.introspection import introspect
from wsrpc._schema.change_rules import Outcome
from wsrpc._schema.contract_diff import compare
from wsrpc.codegen.typescript import declarations

RANK: dict[Outcome, int] = {"works": 0, "meaning": 1, "fails": 2}
NOTICE_LESS = {
    *("type-changed", "type-narrowed", "type-widened", "integer-to-number", "number-to-integer", "text-to-bytes"),
    *("bytes-to-text", "added-field-refused", "removed-field-refused", "parameter-added", "parameter-removed"),
    *("parameter-added-optional", "parameter-removed-optional", "parameter-before-rest", "parameter-renamed"),
    *("parameter-name-added", "enum-value-added", "keep-extended", "keep-shortened"),
}
"""Rules after which a page may fare better than the table says: in JavaScript, there is one type of numbers, also
for flags, and one of texts, and a function takes any number of arguments. A page sends no names of parameters, as URLs
do, and calls once."""
NOTHING_IN_COMMON = 2559
"""The compiler's error for an object with no field of the type, all of which are optional."""
CHECK = """\
import type { {names} } from "./versions.js"
type Own<V> = V extends object ? { -readonly [K in keyof V]: Own<V[K]> } : V
declare function own<const V>(value: V): Own<V>
declare function is<T>(value: T): void
"""
GROUPS = {"value": "requests", "stream": "streams", "upload": "uploads"}


class Play(NamedTuple):
    """A caller of one version, and a handler of another. The page is generated from one of the two."""

    name: str
    caller: Version
    handler: Version
    expected: Outcome
    case: Case

    @property
    def page(self) -> Version:
        return self.handler if self.caller.emits else self.caller


def plays(cases: list[Case]) -> list[Play]:
    made: list[Play] = []
    for case in cases:
        changes = compare(case.old.describe(), case.new.describe())
        for caller, handler, found in (
            (case.old, case.new, [each.old_caller for each in changes]),
            (case.new, case.old, [each.new_caller for each in changes]),
        ):
            handler.got.clear()
            expected: Outcome = max(found, key=lambda each: RANK[each], default="works")
            made.append(Play(f"p{len(made)}", caller, handler, expected, case))
    return [each for each in made if each.caller.kind not in ("", "messages")]  # a page sends none here


def written(play: Play) -> dict[str, Any]:
    """Return what the program in Node plays."""
    args, _, items = play.caller.sent()
    gives = in_json(play.handler.value(play.handler.gives))
    if play.caller.emits:
        return {"name": play.name, "handles": bool(play.handler.kind), "gives": gives}
    sent = {"args": in_json(args), "items": in_json(items), "key": play.caller.key, "kind": play.caller.kind}
    return {"name": play.name, **sent}


def served(found: list[Play], emitted: dict[str, Any]) -> Server:
    # For an upload to a handler that yields: both sides wait for so long.
    server = Server(limits=Limits(unread_timeout=2))

    @server.on_handshake
    def know(handshake: Any) -> None:
        handshake.principal = "ada"

    for play in found:
        if not play.caller.emits and play.handler.kind:
            play.handler.handled_by(server.of(play.name))

    @server.on("emit all")
    async def emit_all(peer: Peer) -> None:
        for play in found:
            if not play.caller.emits:
                continue
            args, _, _ = play.caller.sent()
            if play.caller.emits == "event":
                await peer.of(play.name).emit("f", *args)
                continue
            try:
                got = await peer.of(play.name).request("f", *args, returns=play.caller.value(play.caller.returns))
                emitted[play.name] = [got]
            except WsrpcError as error:
                emitted[play.name] = error

    return server


def read_by_page(play: Play, args: list[Any]) -> list[Any]:
    """Note what a handler in the page has got. Return the arguments that it has parameters for."""
    wire = introspect(play.handler.names["f"]).parameters
    rest = next((each for each in wire if each.source == "rest"), None)
    named = [each for each in wire if each.source == "wire"]
    seen = {each.name: as_own(value, each.type) for each, value in zip(named, args, strict=False)}
    seen |= {each.name: each.default for each in named[len(args) :]}
    if rest is not None:
        seen[rest.name] = tuple(as_own(value, rest.type) for value in args[len(named) :])
    play.handler.got.append(seen)
    return args if rest is not None else args[: len(named)]


def random_pairs(count: int) -> list[Case]:
    """Return pairs with numbers that JavaScript can tell apart."""
    made: list[Case] = []

    @settings(max_examples=count, phases=[Phase.generate], suppress_health_check=[*HealthCheck])
    @given(pairs.filter(lambda both: "2 ** 53" not in f"{both}"))
    def draw(both: tuple[Version, Version]) -> None:
        made.append(Case("", *both))

    draw()
    return made


@pytest.mark.timeout(300)
async def test_no_page_fares_worse_than_the_table_says(tmp_path: Path) -> None:
    worse, better = await compared(plays(CASES), tmp_path)
    assert worse == []
    assert better == NOTICE_LESS


@pytest.mark.timeout(600)
async def test_random_changes_that_are_called_compatible_are_for_pages_too(tmp_path: Path) -> None:
    found = [play for play in plays(random_pairs(examples(1000))) if play.expected == "works"]
    assert len(found) > 20
    worse, _ = await compared(found, tmp_path)
    assert worse == []


async def compared(found: list[Play], tmp_path: Path) -> tuple[list[Any], set[str]]:
    """Let one page play all. Return what is worse than expected, and the rules after which something is better."""
    (tmp_path / "package").mkdir()
    install_client(build_client(tmp_path / "package"), tmp_path)
    (tmp_path / "package.json").write_text('{"type": "module"}', "utf-8")
    shutil.copy(HERE / "plays.js", tmp_path)
    (tmp_path / "plays.json").write_text(json.dumps([written(play) for play in found]), "utf-8")
    emitted: dict[str, Any] = {}
    async with served(found, emitted).listen() as listener:
        process = await start(find_node(), str(tmp_path / "plays.js"), listener.url, cwd=tmp_path)
        out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    happened = {name: (what, value) for name, what, value in map(json.loads, out.decode().splitlines())}

    versions: list[str] = []
    checks: dict[str, str] = {}
    """By play: the line that fails to compile if a page of this version was not made for what it gets."""
    for play in found:
        text = declarations(play.page.describe())
        own = text[text.index("export const CONTRACT") : text.index("/** Events that")]
        versions.append(f"export namespace {play.name} {{\n{own.replace('export const', 'export declare const')}}}\n")
        what, value = happened.get(play.name, ("", None))
        api = f"{play.name}.Api"
        if what == "heard":
            args = json.dumps(read_by_page(play, value))
            checks[play.name] = f'is<Parameters<{api}["handlers"]["f"]>>(own({args}))'
        elif what == "got" and play.caller.kind in GROUPS:
            group = GROUPS[play.caller.kind]
            checks[play.name] = f'is<ReturnType<{api}["{group}"]["f"]>>(own({json.dumps(value[0])}))'
    (tmp_path / "versions.ts").write_text("\n".join(versions), "utf-8")
    lines = [CHECK.replace("{names}", ", ".join(play.name for play in found)), *checks.values()]
    (tmp_path / "checks.ts").write_text("\n".join(lines), "utf-8")
    first = lines[0].count("\n") + 1
    names = list(checks)
    diagnostics = await tsc(tmp_path, "checks.ts")
    assert {file for file, _, _ in diagnostics} <= {"checks.ts"}, diagnostics
    refused = {names[line - first - 1] for _, line, number in diagnostics if number != NOTHING_IN_COMMON}

    worse: list[Any] = []
    better: set[str] = set()
    for play in found:
        what, value = happened.get(play.name, ("", None))
        answer = emitted.get(play.name, []) if play.caller.emits else value
        if what == "failed" or isinstance(answer, WsrpcError) or play.name in refused:
            observed: Outcome = "fails"
        else:
            returns = play.caller.value(play.caller.returns)
            observed = outcome(play.caller, play.handler, [as_own(each, returns) for each in answer or []])
        if RANK[observed] > RANK[play.expected]:
            worse.append((play.case.rule, observed, play.expected, checks.get(play.name, value)))
        if RANK[observed] < RANK[play.expected]:
            better.add(play.case.rule)
    return worse, better
