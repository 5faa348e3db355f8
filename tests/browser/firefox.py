"""Firefox, which Playwright can drive only in a build of its own: it opens a page, and the page reports by itself."""

from __future__ import annotations

import json
import os
import shutil
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from programs import start

# A new profile opens pages of its own, asks questions and calls home.
OFF = ["app.normandy.enabled", "app.update.enabled", "browser.aboutwelcome.enabled", "toolkit.telemetry.enabled"]
OFF += ["browser.shell.checkDefaultBrowser", "datareporting.policy.dataSubmissionEnabled"]
OFF += ["network.captive-portal-service.enabled", "network.connectivity-service.enabled"]
TEXTS = {"browser.startup.homepage_override.mstone": "ignore", "services.settings.server": ""}
PREFERENCES = dict.fromkeys(OFF, False) | TEXTS


def find_firefox() -> str:
    found = os.environ.get("FIREFOX") or shutil.which("firefox-esr") or shutil.which("firefox")
    assert found, "no firefox-esr on the PATH: `make test-browser` finds one, or says how to get it"
    return found


@asynccontextmanager
async def firefox(folder: Path, url: str) -> AsyncGenerator[None]:
    """Open a page in Firefox, whose profile and home are in ``folder``."""
    lines = [f"user_pref({json.dumps(name)}, {json.dumps(value)});\n" for name, value in PREFERENCES.items()]
    (folder / "user.js").write_text("".join(lines), "utf-8")
    words = [find_firefox(), "--headless", "--no-remote", "--profile", str(folder), url]
    process = await start(*words, env={"HOME": str(folder)}, stderr=DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        await process.communicate()
