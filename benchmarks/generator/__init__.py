"""The load generator in C: compiled when it has to be, run for one slot at a time."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from ..measure import Sample
from ..processes import BenchmarkError, Child, start
from ..protocols import Texts

SOURCES = sorted(Path(__file__).parent.glob("*.c"))
PROGRAM = Path(__file__).parents[1] / "build" / "load"
PATIENCE = 30.0
"""Seconds for opening and closing connections, and for the last answers."""


def find_compiler() -> str:
    """The path of the C compiler. Raises BenchmarkError if there is none."""
    compiler = shutil.which("cc")
    if compiler is None:
        raise BenchmarkError(
            "cc is missing: the load generator is in C, for one in Python would be slower than the servers. "
            "Install a C compiler (Debian, Ubuntu: apt-get install gcc libc6-dev; Fedora: dnf install gcc)."
        )
    return compiler


def compile_load() -> None:
    """Raises BenchmarkError if there is no compiler, or if it complains."""
    read = [*SOURCES, *Path(__file__).parent.glob("*.h")]
    if PROGRAM.exists() and PROGRAM.stat().st_mtime >= max(source.stat().st_mtime for source in read):
        return
    PROGRAM.parent.mkdir(exist_ok=True)
    # Another process may run the program, or compile it, too: it appears complete, or not at all.
    made = PROGRAM.with_name(f"load-{os.getpid()}")
    outcome = subprocess.run([find_compiler(), "-O2", "-o", made, *SOURCES], capture_output=True, text=True)
    if outcome.returncode != 0:
        raise BenchmarkError(f"cc could not compile the load generator:\n{outcome.stderr.strip()}")
    made.replace(PROGRAM)


def run_load(server: Child, port: int, texts: Texts, core: int, **options: object) -> Sample:
    """Load one server with what ``options`` say; see generate.c. Raises BenchmarkError if it stops answering."""
    seconds = float(str(options.get("warm", 0))) + float(str(options.get("seconds", 0)))
    with _started(server, port, texts, core, options) as load:
        return msgspec.json.decode(load.read_line(seconds + PATIENCE), type=Sample)


@contextmanager
def held(server: Child, port: int, texts: Texts, core: int, connections: int) -> Iterator[None]:
    """So many connections that say nothing, for the time of the block."""
    with _started(server, port, texts, core, {"mode": "hold", "connections": connections}) as load:
        load.read_line(PATIENCE)
        yield


@contextmanager
def _started(server: Child, port: int, texts: Texts, core: int, options: dict[str, object]) -> Iterator[Child]:
    given = {"port": port, "pid": server.pid, "path": texts.path, "id_offset": texts.id_offset, **options}
    words = [f"{name}={_value(value)}" for name, value in given.items()]
    command: list[str | Path] = [PROGRAM, "run", *words, *texts.options]
    with start(f"the load on {server.name}", command, core) as load:
        for text in (texts.request, texts.mark, texts.result, texts.opening):
            load.write(b"%d\n%s" % (len(text), text))
        yield load


def _value(value: object) -> object:
    return int(value) if isinstance(value, bool) else value
