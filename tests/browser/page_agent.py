"""The interop tests' JavaScript peer in a page: interop/js/browser.html, driven as interop/agents.py drives Node."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

from playwright.async_api import Page

from interop.agents import CALL_TIMEOUT, Agent, AgentError
from interop.peers import READS, Agents, Link, Role


class PageAgent(Agent):
    """What a page can do of it: it dials."""

    def __init__(self, page: Page, library: str) -> None:
        self.library = library
        self.logs = []
        self.page = page
        self.drop: Callable[[], None] | None = None
        page.on("pageerror", lambda error: self.logs.append({"log": "page error", "text": str(error)}))

    @classmethod
    async def open(cls, page: Page, url: str, library: str) -> PageAgent:
        agent = cls(page, library)
        await page.goto(f"{url}/browser.html?library={library}")
        await page.wait_for_function("globalThis.ready")
        ready = await page.evaluate("ready")
        agent.version, agent.can = ready["version"], frozenset(ready["can"])
        return agent

    async def call(self, command: str, **fields: Any) -> Any:
        if command == "terminate":
            # A page cannot drop its connection, only close it. The network can, and here Python's end plays that.
            assert self.drop is not None
            return self.drop()
        try:
            async with asyncio.timeout(CALL_TIMEOUT):
                text = await self.page.evaluate("text => obey(text)", json.dumps({"command": command, **fields}))
        except TimeoutError:
            raise AgentError(f"{self.library}: no response to {command!r} within {CALL_TIMEOUT:g} s") from None
        answer = json.loads(text)
        if "error" in answer:
            raise AgentError(answer["error"]["message"] or repr(answer["error"]["value"]), answer["error"]["name"])
        return answer["ok"]


class PageAgents(Agents):
    """One page of each library. Pages of another origin are refused unless it is listed, so it is."""

    def __init__(self, start: Callable[[str], Any], origin: str) -> None:
        super().__init__(start)
        self._origin = origin
        self._pages: dict[str, PageAgent] = {}

    async def get(self, library: str, read_limit: int = READS) -> tuple[Agent, str]:
        if library not in self._pages:
            self._pages[library] = await self._start(library)  # type: ignore[assignment]
        return self._pages[library], ""  # it does not listen

    @asynccontextmanager
    async def link(self, library: str, role: Role, *, read_limit: int = READS, **options: Any) -> AsyncGenerator[Link]:
        async with super().link(library, role, origins=[self._origin], **options) as link:
            self._pages[library].drop = link.transport.abort
            yield link
