"""`Client<Api>`: what `tsc --strict` says of pages, and what these get of a server."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from interop.installed import build_client, install_client
from interop.node import JS
from interop.test_typescript import COMPILER, HERE, generate, output_of, run, tsc

PAGE = HERE / "page"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_client(tmp_path_factory.mktemp("package"))


async def project(package: Path, folder: Path, *options: str) -> None:
    install_client(package, folder)
    (folder / "package.json").write_text('{"type": "module"}', "utf-8")
    for file in [HERE / "node.d.ts", *PAGE.glob("*.ts")]:
        shutil.copy(file, folder)
    await generate(folder / "api.d.ts", *options, target="pages:server")


async def test_a_page_gets_what_was_declared(package: Path, tmp_path: Path) -> None:
    await project(package, tmp_path)
    assert await tsc(tmp_path, "calls.ts", "node.d.ts") == []
    assert await run("calls.js", tmp_path, "pages.py") == [
        *(["add", 2, 3.75], ["nothing", None], ["order", "l", "s", None], ["adopt", "REX"], ["adopt", "9"]),
        *(["adopt", []], ["move", {"x": 1.5, "y": 2.5, "tags": []}], ["swap", "one", 1]),
        *(["search", {"depth": 1, "follow": True}], ["times", "2026-05-04T12:00:00Z", "P2D"], ["reverse", "Y2Jh"]),
        *(["levels", 2], ["set-name", {"name": {"any": "thing"}}], ["tick", 6], ["read", "YWJj"], ["users", 0]),
        *(
            ["count", "0", "s", "none"],
            ["count", "1", "s", "none"],
            ["trip", True],
            ["total", 103, 7],
            ["doubled", None, [8], None],
        ),
        *(["talk", "HI", None], ["talk", "HO"]),
        ["ask", ["Grace", "Grace Hopper", "s", "[0, 1, 2]", "a-b-c", "hi, about tea"], ["2026-05-04T12:00:00Z", "s"]],
        *(["let_in", "Ada,Bob"], ["cup-served", "tea", True, 4], ["news", "all"], ["ring", None], ["untyped", 3, "0"]),
        *(["untyped", "3", "eA=="], ["any", 3, 3]),
    ]


async def test_bytes_in_messagepack(package: Path, tmp_path: Path) -> None:
    await project(package, tmp_path, "--msgpack")
    assert await tsc(tmp_path, "bytes.ts", "node.d.ts") == []
    assert await run("bytes.js", tmp_path, "pages.py") == [
        *(["reverse", [2, 1]], ["parts", 1, 2], ["parts", 1, 1], ["store", "name: b'abc'"]),
        *(["times", "2026-05-04T12:00:00Z"], ["cup-served", 3]),
    ]


@pytest.mark.parametrize(("file", "count"), [("misuse.ts", 60), ("react.ts", 14)])
async def test_what_is_wrong_does_not_compile(package: Path, tmp_path: Path, file: str, count: int) -> None:
    await project(package, tmp_path)
    lines = enumerate((PAGE / file).read_text("utf-8").splitlines(), 1)
    wanted = [(file, number, int(mark[1])) for number, line in lines if (mark := re.search(r" // (\d+)$", line))]
    assert len(wanted) > count
    assert await tsc(tmp_path, file) == wanted


IN_NODE = """\
import { Client, type ClientOptions, RemoteError, type State, type Status } from "python-wsrpc"
import type { Call, Metadata, OutgoingCall, OutgoingMiddleware, Progress, WithOptions } from "python-wsrpc"

const options: ClientOptions = { requestTimeout: 1000 }
const client = new Client("ws://localhost/ws", options)
const status: Status = client.status
const state: State = status.get()
status.subscribe((state: State, resumed: boolean) => console.log(state, resumed))
const progress: WithOptions = { progress: ({ bytes }: Progress) => bytes.toFixed() }
const metadata: Metadata = { tenant: "acme" }
const named: OutgoingMiddleware = async (call: OutgoingCall, next) => ((call.metadata.name = call.event), next())
const remove: () => void = client.useOutgoing(named)
client.on("name", function (this: Call) { return client.with({ metadata, timeout: this.remaining }).request("name") })
const id = (error: unknown): string | undefined => (error instanceof RemoteError ? error.errorId : undefined)
export const shown = [id, state, client.error?.code, client.retryAt?.toFixed(), client.with(progress), remove]
"""


async def test_a_program_in_node_needs_no_types_of_a_page(package: Path, tmp_path: Path) -> None:
    install_client(package, tmp_path)
    (tmp_path / "node_modules" / "@types").symlink_to(JS / "node_modules" / "@types")
    (tmp_path / "package.json").write_text('{"type": "module"}', "utf-8")
    (tmp_path / "program.ts").write_text(IN_NODE, "utf-8")
    options = "--strict --noEmit --module nodenext --target es2022 --lib es2023 --types node program.ts"
    assert await output_of(*COMPILER, *options.split(), folder=tmp_path, statuses=(0, 1, 2)) == ""


CHATS = """\
import type { AbstractAgent } from "@ag-ui/client"
import type { ChatTransport, UIMessage } from "ai"
import { Client } from "python-wsrpc"
import { WsrpcAgent } from "python-wsrpc/agui"
import { WsrpcTransport } from "python-wsrpc/aisdk"

const options = { tools: { add: ({ x, y }: { x: number; y: number }) => x + y } }
export const transport: ChatTransport<UIMessage> = new WsrpcTransport(new Client("/ws"), "answer", options)
export const agent: AbstractAgent = new WsrpcAgent(new Client("/ws"), "answer", { threadId: "t", ...options })
"""


@pytest.mark.parametrize("version", ["@ai-sdk/react/node_modules/ai", "ai"])
async def test_chats_have_the_types_of_their_clients(package: Path, tmp_path: Path, version: str) -> None:
    install_client(package, tmp_path)
    (tmp_path / "node_modules" / "ai").symlink_to(JS / "node_modules" / version)
    (tmp_path / "node_modules" / "@ag-ui").symlink_to(package / "node_modules" / "@ag-ui")
    (tmp_path / "chats.ts").write_text(CHATS, "utf-8")
    options = "--strict --noEmit --skipLibCheck --module esnext --moduleResolution bundler --target es2022 chats.ts"
    assert await output_of(*COMPILER, *options.split(), folder=tmp_path, statuses=(0, 1, 2)) == ""
