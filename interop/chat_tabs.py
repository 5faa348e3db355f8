"""Pages with the clients of the AI SDK and of AG-UI, the newest and an older version of each."""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from programs import ROOT, Screen, start

from interop.node import JS, find_node

NEWEST, OLDER = "@ai-sdk/react", "ai-sdk-react-3"
AGENT, OLDER_AGENT = "@ag-ui/client", "ag-ui-client-0"


class Tab:
    """A page with `useChat`, or with an `HttpAgent`."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen

    async def do(self, name: str, *args: Any) -> Any:
        self._screen.type(json.dumps([name, *args]))
        return json.loads(await self._screen.line())

    async def shown(self, words: str | None = None) -> Any:
        return await self.do("shown", *([words] if words else []))


@asynccontextmanager
async def tab(library: str, url: str, chat: str = "c 1", event: str = "answer") -> AsyncGenerator[Tab]:
    """A page, without a browser. With the URL of a WebSocket, it reads the runs of the event over a connection."""
    program = "use_chat.mjs" if "sdk" in library else "http_agent.mjs"
    with modules_beside(library) as modules:
        process = await start(find_node(), program, library, url, chat, event, modules.as_uri(), cwd=JS)
        try:
            yield Tab(Screen(process))
        finally:
            process.kill()
            await process.communicate()


@contextmanager
def modules_beside(library: str) -> Generator[Path]:
    """The modules of pages, beside a version of AG-UI's client."""
    with TemporaryDirectory() as folder:
        modules = shutil.copytree(ROOT / "wsrpc" / "browser", Path(folder) / "modules")
        (modules / "package.json").write_text('{"type": "module"}', "utf-8")
        (modules / "node_modules" / "@ag-ui").mkdir(parents=True)
        (modules / "node_modules" / "@ag-ui" / "client").symlink_to(JS / "node_modules" / library)
        (modules / "node_modules" / "rxjs").symlink_to(JS / "node_modules" / "rxjs")
        yield modules
