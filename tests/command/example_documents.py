"""Writes the documents of all examples into a folder, by `wsrpc types`. Each example is loaded in a process of its own.

A process that has imported the command is forked for each: 28 new ones would take ten seconds more.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

from wsrpc import Server
from wsrpc._command import generating  # noqa: F401  # what the command would import
from wsrpc._command.main_command import main as command
from wsrpc.schema import describe
from wsrpc_adapters.asgi import routes

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
MADE = {"chat/handlers.py": "make_server(Store(folder))"}
"""How to get the server of an example that has no variable for it."""
PROGRAMS = {"conformance/under_test.py", "todo/test_todo.py"}
"""Those whose server is in a function that also runs it, so that no command can load it."""


def servers() -> Iterator[tuple[Path, str]]:
    """Yield each example that has a server, with the expression for it; and a server that has one of everything."""
    for file in sorted(EXAMPLES.rglob("*.py")):
        name, text = file.relative_to(EXAMPLES).as_posix(), file.read_text("utf-8")
        if variable := re.search(r"^(\w+) = (?:wsrpc\.)?Server\(", text, re.MULTILINE):
            yield file, variable[1]
        elif name in MADE:
            yield file, MADE[name]
        else:
            assert name in PROGRAMS or not re.search(r"\bServer\(", text), f"{name} has a server"
    yield ROOT / "interop" / "typescript" / "app.py", "server"


def write(file: Path, expression: str, output: str) -> None:
    """Write the documents of one example, with all its events as calls and as runs."""
    Server.run = lambda self, *args, **options: None  # type: ignore[method-assign]  # as the command loads a module
    sys.path.insert(0, str(file.parent))
    loaded = importlib.import_module(file.stem)
    server = eval(expression, {**vars(loaded), "folder": Path(output)})
    names = [":".join(filter(None, (event.channel, event.event))) for event in describe(server).events]
    loaded.document_server = server  # type: ignore[attr-defined]
    loaded.document_api = routes(server, calls=names, runs=names, rooms=["lobby", "public-*"])  # type: ignore[attr-defined]
    for form, target in ("asyncapi", "document_server"), ("openapi", "document_api"):
        assert command(["types", f"{file.stem}:{target}", f"--{form}", "-o", f"{output}.{form}"]) == 0


def main(folder: Path) -> int:
    os.environ["CHAT_DATABASE"] = ":memory:"  # otherwise ai_chat would leave a file here
    for number, (file, expression) in enumerate(servers()):
        child = os.fork()
        if not child:
            try:
                write(file, expression, str(folder / f"{number}-{file.stem}"))
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        if os.waitpid(child, 0)[1]:
            print(f"{file} has no documents")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
