"""Checks that wsrpc installs beside the newest versions of SDKs that programs use together with it.

pip resolves them with wsrpc and all its extras, in a dry run: nothing is installed. The check fails if pip would choose
an older version of an SDK because of wsrpc, and says which requirements are in conflict. It needs the package index.

Usage: python scripts/check_beside.py [SDK...]
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SDKS = ["openai[realtime]", "google-genai", "livekit-agents", "supabase", "pydantic-ai-slim"]
"""Several of them need `websockets`, too, and do not allow each version."""

PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]
PATIENCE = 300
"""Seconds for one resolution: where there is a conflict, pip may try hundreds of versions."""

CONFLICT = re.compile(r"The conflict is caused by:\n(.+?)\n\n", re.DOTALL)


class Unresolved(Exception):
    """pip has found no versions that fit together. The text says why."""


def resolve(*requirements: str) -> dict[str, str]:
    """Return the versions that pip would install into an empty environment, by the name."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        command = [*PIP, "install", "--dry-run", "--ignore-installed", "--report", str(report), *requirements]
        try:
            ran = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            raise Unresolved(f"pip found no versions within {PATIENCE} s") from None
        if ran.returncode:
            conflict = CONFLICT.search(ran.stdout)
            raise Unresolved(conflict[1] if conflict else ran.stderr.strip())
        found = [item["metadata"] for item in json.loads(report.read_text("utf-8"))["install"]]
    return {canonical(item["name"]): item["version"] for item in found}


def canonical(requirement: str) -> str:
    """Return the name of what is required, in the spelling in which names are compared."""
    return re.sub(r"[-_.]+", "-", requirement.partition("[")[0]).lower()


def check(sdks: list[str], wsrpc: str) -> list[str]:
    """Return what is wrong: a text for each SDK that pip would install in an older version beside ``wsrpc``."""
    newest = resolve("--no-deps", *sdks)
    try:
        # Exact versions: pip need not try older ones to find out that there is a conflict.
        resolve(*(f"{sdk}=={newest[canonical(sdk)]}" for sdk in sdks), wsrpc)
    except Unresolved:  # maybe the SDKs do not fit together: each by itself
        return [problem for sdk in sdks if (problem := check_one(sdk, wsrpc))]
    for sdk in sdks:
        print(f"{sdk} {newest[canonical(sdk)]}: the newest, and it installs beside wsrpc")
    return []


def check_one(sdk: str, wsrpc: str) -> str:
    """Return what is wrong with one SDK, or an empty text."""
    try:
        alone = resolve(sdk)[canonical(sdk)]
    except Unresolved as exc:
        print(f"{sdk}: not on this Python, even without wsrpc: {exc}")
        return ""
    try:
        resolve(f"{sdk}=={alone}", wsrpc)
    except Unresolved as exc:
        try:
            beside = resolve(sdk, wsrpc)[canonical(sdk)]
        except Unresolved:
            beside = "no version"
        return f"{sdk}: {alone} alone, {beside} beside wsrpc. In conflict:\n{exc}"
    print(f"{sdk} {alone}: as without wsrpc")
    return ""


def main(sdks: list[str]) -> int:
    with tempfile.TemporaryDirectory() as folder:
        build = [*PIP, "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, str(ROOT)]
        subprocess.run(build, check=True)
        [wheel] = Path(folder).glob("*.whl")
        try:
            problems = check(sdks, f"{wheel}[all]")
        except Unresolved as exc:
            sys.exit(f"pip finds not every SDK. Does it reach the package index?\n{exc}")
    for problem in problems:
        print(f"\n{problem}", file=sys.stderr)
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or SDKS))
