"""The hooks of wsrpc/browser/react.js, in Chromium with React, in its StrictMode."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from browser.page_site import HERE, Site, quiet_page, serving_site
from browser.pages import block, browsing
from playwright.async_api import Browser, Page, expect
from programs import ROOT
from waiting import until

import wsrpc
from interop.node import JS
from wsrpc import Context, Keep, Server

pytestmark = pytest.mark.asyncio(loop_scope="session")

ESBUILD = ROOT / "browser" / "node_modules" / ".bin" / "esbuild"
TOLERATED = "Download the React DevTools", "Feature flags __VUE", "development build of Vue", "ERR_CONNECTION_REFUSED"
"""What React and Vue write into the console of each page in development, and Chromium, while a server is away."""

Present = [[["here"]], True, True]
"""What a room shows after its state: who is there, and that it is live and complete."""


def bundle(source: Path, target: Path, versions: Mapping[str, str] = {}) -> None:
    """Bundle a page for development, in which StrictMode mounts everything twice."""
    modules = Path(wsrpc.__file__).with_name("browser")
    ours = {f"python-wsrpc/{name}": f"{modules}/{name}.js" for name in ("agui", "aisdk", "react")}
    aliases = {**ours, "python-wsrpc": f"{modules}/client.js", **versions}
    found = [f"--alias:{name}={path}" for name, path in aliases.items() if name != path]
    options = [
        "--bundle",
        "--log-level=error",
        "--format=esm",
        "--jsx=automatic",
        '--define:process.env.NODE_ENV="development"',
        *found,
    ]
    environment = {**os.environ, "NODE_PATH": str(JS / "node_modules")}
    command = [str(ESBUILD), str(source), *options, f"--outfile={target}"]
    subprocess.run(command, env=environment, check=True, timeout=60)


@pytest.fixture(scope="module")
def bundled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("react")
    bundle(HERE / "page_react.jsx", folder / "page.js")
    return folder


class Stage:
    """A page, and a server whose handlers go on when the test says so. ``notes`` tell what they have done."""

    page: Page
    site: Site

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.gates = {value: asyncio.Event() for value in "abc"}
        self.server = Server()
        self.server.on_handshake(lambda handshake: setattr(handshake, "principal", "ada"))
        lobby = self.server.room("lobby", keep=60, presence=5, allow=bool)
        attic = self.server.room("attic", keep=60, presence=5, allow=bool, state=lambda peer: ["kept"])
        self.rooms = {"lobby": lobby, "attic": attic, "cellar": self.server.room("cellar", allow=bool)}
        self.server.on("slow", self.slow)
        self.server.on("fail", self.fail)
        self.server.on("say", self.say)
        self.server.on("generate", self.count, keep=Keep(60, inbox=str))
        self.server.on("count", self.count, keep=Keep(60, inbox=str))

    async def slow(self, value: str) -> str:
        self.notes.append(f"slow {value}")
        await self.gates[value].wait()
        self.notes.append(f"done {value}")
        return value.upper()

    async def say(self, text: str) -> None:
        await self.rooms["lobby"].emit("said", text)

    def fail(self) -> None:
        raise wsrpc.RpcError("it failed", code="bad_luck")

    async def count(self, ctx: Context, to: int) -> AsyncIterator[int | str]:
        self.notes.append(f"count {to}")
        try:
            for number in range(to):
                yield number
            async for message in ctx.inbox(str):
                if message.value == "end":
                    break
                yield message.value
        finally:
            self.notes.append("counted")

    async def open(self, page: Page) -> None:
        self.page = page
        await page.evaluate("import('/http/page.js').then(() => null)")

    async def show(self, **parts: dict[str, Any]) -> None:
        """Render components, in place of those of before."""
        await self.page.evaluate("(parts) => show(parts)", parts)

    async def shows(self, part: str, *value: Any) -> None:
        """Wait until a component shows this."""
        text = json.dumps(value, separators=(",", ":"))
        await expect(self.page.locator(f"#{part}")).to_have_text(text)

    async def run(self, expression: str) -> Any:
        return await self.page.evaluate(expression)


async def strict_mode(stage: Stage) -> None:
    """Two components share a room, and two read a run: one connection, one join, one stream."""
    run, room = {"kind": "run", "key": "a"}, {"kind": "room", "name": "lobby"}
    await stage.show(status={}, run=run, again=run, room=room, beside=room, client={})
    for part in ("run", "again"):
        await stage.shows(part, [0, 1, 2], False, None)
    for part in ("room", "beside"):
        await stage.shows(part, [], *Present, None)
    await stage.shows("status", "open", None, "undefined")
    await expect(stage.page.locator("#client")).to_have_text("true")
    assert (sorted(await stage.run("made")), stage.notes) == (["count", "join"], ["count 3"])
    assert (stage.site.upgrades, len(stage.site.opened)) == (1, 1)


async def server_rendering(stage: Stage) -> None:
    parts = {"status": {}, "run": {"key": "a"}, "room": {"name": "lobby"}}
    shown = await stage.page.evaluate("(parts) => onServer(parts).trim()", parts)
    assert [json.loads(part) for part in shown.split()] == [
        *(["connecting", None, "undefined"], [[], False, None], [[], [], False, True, None]),
    ]
    assert (await stage.run("made"), stage.notes) == ([], [])


async def reload(stage: Stage) -> None:
    await stage.show(run={"key": "a"})
    await stage.shows("run", [0, 1, 2], False, None)
    await stage.page.reload()
    await stage.open(stage.page)
    await stage.show(run={"key": "a"})
    await stage.shows("run", [0, 1, 2], False, None)
    await stage.run("run.send('more').then(() => run.send('end'))")
    await stage.shows("run", [0, 1, 2, "more"], True, None)
    assert stage.notes == ["count 3", "counted"]


async def closed_client(stage: Stage) -> None:
    """It says so, and all continues when the page opens it again."""
    await stage.show(status={}, call={"event": "slow"}, run={"key": "a"}, room={"name": "lobby"})
    await stage.shows("room", [], *Present, None)
    await stage.shows("run", [0, 1, 2], False, None)
    await stage.run("client.close(3000)")
    await stage.shows("status", "closed", 3000, "undefined")
    await stage.shows("run", [0, 1, 2], False, 3000)
    await stage.run("call('a')")
    await stage.shows("call", None, 3000, False)
    await stage.rooms["lobby"].emit("said", "hi")
    await stage.show(status={}, late={"kind": "run", "key": "b"}, run={"key": "a"}, room={"name": "lobby"})
    await stage.shows("late", [], False, 3000)
    await stage.run("client.connect()")
    await stage.shows("status", "open", None, "undefined")
    for part in ("late", "run"):
        await stage.shows(part, [0, 1, 2], False, None)
    await stage.run("run.send('more')")
    await stage.shows("room", ["hi"], *Present, None)
    await until(lambda: stage.notes == ["count 3", "count 3"])


async def no_connection(stage: Stage) -> None:
    """After a failed attempt the state is the same, and the rest is new."""
    await stage.show(status={})
    await stage.shows("status", "open", None, "undefined")
    async with stage.site.proxy.refuse():
        await stage.run("client.close(); client.connect()")
        await stage.shows("status", "connecting", 1006, "number")


async def room(stage: Stage) -> None:
    """Its state, events and users; another name is another room, also of a room without a log."""
    await stage.show(room={"name": "attic"})
    await stage.shows("room", ["kept"], *Present, None)
    await stage.rooms["attic"].emit("said", "hi")
    await stage.shows("room", ["kept", "hi"], *Present, None)
    await stage.rooms["lobby"].emit("said", "before")
    await stage.show(room={"name": "lobby"})
    await stage.shows("room", ["before"], *Present, None)
    assert await stage.run("made") == ["join", "leave", "join"]
    await until(lambda: not stage.rooms["attic"])
    await stage.show(room={"name": "cellar"}, other={"kind": "room", "name": "lobby"})
    await stage.shows("room", [], [], True, True, None)
    await stage.rooms["lobby"].emit("said", "to the lobby")
    await stage.shows("other", ["before", "to the lobby"], *Present, None)
    await stage.shows("room", [], [], True, True, None)
    await stage.rooms["cellar"].emit("said", "below")
    await stage.shows("room", ["below"], [], True, True, None)
    await stage.shows("other", ["before", "to the lobby"], *Present, None)
    await stage.show(room={"name": "garden"})
    await stage.shows("room", [], [], False, False, "RemoteError")


async def shared_room(stage: Stage) -> None:
    """The page leaves the room when the last component has gone."""
    room = {"kind": "room", "name": "lobby"}
    await stage.show(one=room, two=room)
    await stage.rooms["lobby"].emit("said", "hi")
    await stage.shows("one", ["hi"], *Present, None)
    await stage.show(three=room, two=room)
    await stage.shows("three", ["hi"], *Present, None)
    await stage.show(four=room)
    await stage.shows("four", ["hi"], *Present, None)
    assert await stage.run("made") == ["join"]
    await stage.show()
    await until(lambda: not stage.rooms["lobby"])


async def hidden(stage: Stage) -> None:
    """React keeps the state of a hidden component, but its effects end: it leaves, and begins anew when it is shown."""
    for mode in ("visible", "hidden", "visible"):
        await stage.show(room={"name": "lobby", "mode": mode}, run={"key": "a", "mode": mode})
        if mode == "visible":
            await stage.shows("run", [0, 1, 2], False, None)
            await stage.rooms["lobby"].emit("said", "hi")
        else:
            await until(lambda: not stage.rooms["lobby"])
    await stage.shows("room", ["hi", "hi"], *Present, None)
    assert stage.notes == ["count 3"]


async def new_session(stage: Stage) -> None:
    """A room gets what it has missed, and says when it is live again."""
    await stage.show(room={"name": "attic"}, run={"key": "a"})
    await stage.shows("room", ["kept"], *Present, None)
    await stage.shows("run", [0, 1, 2], False, None)
    await stage.rooms["attic"].emit("said", "hi")
    await stage.site.opened[0].close()
    await until(lambda: len(stage.site.opened) == 2)
    await stage.rooms["attic"].emit("said", "again")
    await stage.shows("room", ["kept", "hi", "again"], *Present, None)
    await stage.run("run.send('more')")
    await stage.shows("run", [0, 1, 2, "more"], False, None)


async def other_run(stage: Stage) -> None:
    """Without a key nothing runs, another key or argument is another stream, and only `stop` ends a run."""
    await stage.show(run={"key": None})
    await stage.shows("run", [], False, None)
    await stage.show(run={"key": "a"})
    await stage.shows("run", [0, 1, 2], False, None)
    await stage.show(run={"key": "b", "args": [2]})
    await stage.shows("run", [0, 1], False, None)
    assert stage.notes == ["count 3", "count 2"]
    await stage.run("run.stop()")
    await until(lambda: stage.notes == ["count 3", "count 2", "counted"])
    await stage.show(run={"key": "c", "args": []})
    await stage.shows("run", [], False, "wsrpc.bad_arguments")
    await stage.show(run={"key": "a"})
    await stage.shows("run", [0, 1, 2], False, None)
    await stage.show()
    await stage.run("client.with({ key: 'a' }).follow('count', 3).send('more')")


async def calls(stage: Stage) -> None:
    """The last of them counts, errors are values, and a call goes on without its component."""
    await stage.show(call={"event": "slow"})
    await stage.shows("call", None, None, False)
    await stage.run("globalThis.answers = Promise.all([call('a'), call('b')]), null")
    await stage.shows("call", None, None, True)
    await until(lambda: len(stage.notes) == 2)
    stage.gates["b"].set()
    await stage.shows("call", "B", None, False)
    stage.gates["a"].set()
    assert await stage.run("answers") == ["A", "B"]
    await stage.shows("call", "B", None, False)
    await stage.show(call={"event": "fail"})
    assert await stage.run("call()") is None
    await stage.shows("call", None, "bad_luck", False)
    await stage.show(call={"event": "slow"})
    await stage.run("globalThis.answer = call('c'), null")
    await stage.shows("call", None, None, True)
    await stage.show()
    stage.gates["c"].set()
    assert await stage.run("answer") == "C"
    assert stage.notes[-2:] == ["slow c", "done c"]


APPS = {
    "chat.jsx": """
import { createRoot } from "react-dom/client"
import { App } from "./chat.jsx"
createRoot(main).render(<App />)
""",
    "vue.js": """
import { createApp, h } from "vue"
import { useFollow, useStatus } from "./vue.js"
const setup = () => {
  const [status, { items }] = [useStatus(client), useFollow(client, "generate", [3], "answer-42")]
  return () => h("button", `${status.value} ${items.value} `)
}
createApp({ setup }).mount(main)
""",
    "svelte.js": """
import { derived } from "svelte/store"
import { follow, statusOf } from "./svelte.js"
const shown = derived([statusOf(client), follow(client, "generate", [3], "answer-42")], (all) => all.join(" "))
shown.subscribe((text) => (main.innerHTML = `<button>${text} </button>`))
""",
}
"""Programs with what docs/how-to/browser.md shows, and what it refers to."""


@pytest.mark.parametrize("name", APPS)
async def test_the_guide(browser: Browser, tmp_path: Path, name: str) -> None:
    begin = 'const main = document.body.appendChild(document.createElement("main"))\n'
    if name != "chat.jsx":
        begin = f'import {{ Client }} from "python-wsrpc"\nconst client = new Client("/ws")\n{begin}'
    guide, example = ROOT / "docs" / "how-to" / "browser.md", ROOT / "examples" / "page" / name
    code = example.read_text("utf-8") if example.exists() else block(guide, f"// {name}")
    (tmp_path / name).write_text(code, "utf-8")
    (tmp_path / "app.jsx").write_text(begin + APPS[name], "utf-8")
    bundle(tmp_path / "app.jsx", tmp_path / "page.js")
    stage, files = Stage(), web.Application()
    files.router.add_static("/", tmp_path)
    async with serving_site(stage.server, api=files) as stage.site, browsing(browser) as context:
        async with quiet_page(context, stage.site.url, *TOLERATED) as page:
            await stage.open(page)
            await expect(page.get_by_role("button")).to_have_text("open 0,1,2 ")
            assert stage.notes == ["count 3"]
            if name == "chat.jsx":
                await page.get_by_role("button").click()
                await expect(page.get_by_role("button")).to_have_text("open 0,1,2 hi")


ROWS: list[Callable[[Stage], Awaitable[None]]] = [
    *(
        strict_mode,
        server_rendering,
        reload,
        closed_client,
        no_connection,
        room,
        shared_room,
        hidden,
        new_session,
        other_run,
        calls,
    )
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.__name__)
async def test_hooks(browser: Browser, bundled: Path, row: Callable[[Stage], Awaitable[None]]) -> None:
    """No row may write an error or a warning into the console, such as that of an update of an unmounted component."""
    stage, files = Stage(), web.Application()
    files.router.add_static("/", bundled)
    async with serving_site(stage.server, api=files) as stage.site, browsing(browser) as context:
        async with quiet_page(context, stage.site.url, *TOLERATED) as page:
            await stage.open(page)
            await row(stage)
