"""JavaScript libraries for programs of their own, as ``npm install`` gives them."""

from __future__ import annotations

import json
from pathlib import Path

from interop.node import JS, ws_wrapper_4

__all__ = ["install"]

# What says on the wire what ws-wrapper 4 does, for machines where that is not to be had; here with its defaults.
PLAIN_4 = """
import Connection from {url}
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
