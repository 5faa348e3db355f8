"""docs/how-to/go.md: its programs in Go and in Python run as they are shown, and talk with each other."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

from programs import PYTHON, ROOT, free_port, printed_by, start

from interop.golang import SOURCE, find_go, go_build

PAGE = ROOT / "docs" / "how-to" / "go.md"
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE)
URL = "127.0.0.1:8080"


def program(name: str) -> str:
    [text] = [text for _, text in BLOCKS if re.match(rf"(?:#|//) {re.escape(name)}\n", text)]
    return str(text)


def build(name: str, text: str, folder: Path) -> str:
    """Build a program of the page on what plays the library."""
    module = (SOURCE / "go.mod").read_text("utf-8").replace("=> ./played", f'=> "{SOURCE / "played"}"')
    (folder / "go.mod").write_text(module, "utf-8")
    shutil.copy(SOURCE / "go.sum", folder)
    (folder / name).write_text(text, "utf-8")
    go_build(find_go(), "-mod=mod", "-o", "program", name, folder=folder)
    return str(folder / "program")


def test_each_program_is_run() -> None:
    named = [found[1] for _, text in BLOCKS if (found := re.match(r"(?:#|//) ([\w.]+)\n", text))]
    assert named == ["server.go", "client.py", "client.go"]
    assert len([text for language, text in BLOCKS if language == "go"]) == 2


async def test_python_calls_the_server_in_go(tmp_path: Path) -> None:
    here = f"127.0.0.1:{free_port()}"
    server, client = program("server.go"), program("client.py")
    assert URL in server and URL in client
    served = build("server.go", server.replace(URL, here), tmp_path)
    (tmp_path / "client.py").write_text(client.replace(URL, here), "utf-8")
    go = await start(served)
    try:
        called = await printed_by(await start(*PYTHON, "client.py", cwd=tmp_path))
        assert called.splitlines() == re.findall(r"print\(.*\)  # (.+)", client)
        assert go.stderr is not None and b"hello [first]" in await go.stderr.readline()
    finally:
        go.kill()
        await go.communicate()


async def test_go_reads_the_stream_from_python(tmp_path: Path) -> None:
    reader = build("client.go", program("client.go"), tmp_path)
    names: dict[str, Any] = {}
    for language, text in BLOCKS:
        if language == "python" and not text.startswith("# "):
            exec(compile(text, str(PAGE), "exec"), names)
    async with names["server"].listen("127.0.0.1", 0) as listener:
        assert await printed_by(await start(reader, listener.url)) == "0\n1\n2\n"
