"""JavaScript libraries for programs of their own, as ``npm install`` gives them."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

from interop.node import JS, find_node, ws_wrapper_4

ROOT = Path(__file__).parent.parent

__all__ = ["build_client", "install", "install_client"]

# What says on the wire what ws-wrapper 4 does, for machines where that is not to be had; here with its defaults.
PLAIN_4 = """
import Connection from {url}
export {{ iterableHandler }} from {url}
export default class extends Connection {{
  constructor(socket) {{
    super(socket, {{ errorToJSON: ({{ message }}) => JSON.stringify({{ message }}) }})
  }}
}}
"""


def install(library: str, folder: Path) -> None:
    """Let programs in ``folder`` import ``ws``, and ``library`` as ``ws-wrapper``."""
    modules = folder / "node_modules"
    modules.mkdir()
    (modules / "ws").symlink_to(JS / "node_modules" / "ws")
    if library == "plain-4":
        (modules / "ws-wrapper").mkdir()
        url = json.dumps((JS / "plain4.mjs").as_uri())
        (modules / "ws-wrapper" / "index.mjs").write_text(PLAIN_4.format(url=url), "utf-8")
        (modules / "ws-wrapper" / "package.json").write_text('{"exports": "./index.mjs"}', "utf-8")
        return
    package = ws_wrapper_4() if library == "ws-wrapper-4" else JS / "node_modules" / library
    (modules / "ws-wrapper").symlink_to(package)


def build_client(folder: Path) -> Path:
    """Return the package python-wsrpc as npm packs it, made in ``folder``: the committed modules, and their types."""
    (folder / "package.json").write_bytes((ROOT / "browser" / "package.json").read_bytes())
    shutil.copytree(ROOT / "wsrpc" / "browser", folder / "dist")
    (folder / "node_modules").symlink_to(ROOT / "browser" / "node_modules")  # the types of React
    compiler = [find_node(), str(JS / "node_modules" / "typescript" / "bin" / "tsc"), "-p", str(ROOT / "browser")]
    subprocess.run([*compiler, "--emitDeclarationOnly", "--outDir", str(folder / "dist")], check=True, timeout=60)
    return folder


def install_client(package: Path, folder: Path) -> None:
    """Let programs in ``folder`` import ``ws``, and the ``package`` as ``python-wsrpc``."""
    modules = folder / "node_modules"
    modules.mkdir()
    (modules / "ws").symlink_to(JS / "node_modules" / "ws")
    (modules / "python-wsrpc").symlink_to(package)
    (modules / "react").symlink_to(ROOT / "browser" / "node_modules" / "@types" / "react")
