"""The programs in Go, built when they have to be: the load generator for gRPC and for opening connections; servers."""

from __future__ import annotations

import hashlib
import os
import subprocess
from functools import cache
from pathlib import Path

import msgspec

from interop.golang import environment, find_go

from ..measure import Sample
from ..processes import BenchmarkError, start

HERE = Path(__file__).parent
SERVERS = HERE.parent / "go_servers"
BUILT = HERE.parent / "build"
BUILD_TIMEOUT = 600.0
PATIENCE = 30.0


@cache
def build(folder: Path = HERE) -> Path:
    """The program of a folder, built if its sources have changed. Raises BenchmarkError, saying what to do."""
    try:
        go = find_go()
    except RuntimeError as problem:
        raise BenchmarkError(f"{problem}; or leave out what needs it: --without go") from None
    digest = hashlib.sha256(go.encode())
    for source in [*sorted(folder.glob("*.go")), folder / "go.mod", folder / "go.sum"]:
        digest.update(source.read_bytes())
    program = BUILT / f"{folder.name}-{digest.hexdigest()[:16]}"
    if not program.exists():
        BUILT.mkdir(exist_ok=True)
        made = program.with_name(f"{program.name}-{os.getpid()}")  # complete when it gets its name
        command: list[str | Path] = [go, "build", "-buildvcs=false", "-o", made, "."]
        done = subprocess.run(
            command, cwd=folder, env=environment(), capture_output=True, text=True, check=False, timeout=BUILD_TIMEOUT
        )
        if done.returncode != 0:
            raise BenchmarkError(
                f"go build failed in {folder}: {done.stderr.strip()}\n"
                "The modules of its go.mod come from the Go module proxy: `go env GOPROXY` says from where. "
                "Or leave out what needs it: --without go"
            )
        made.replace(program)
    return program


def run_go(what: str, name: str, core: int, **options: object) -> Sample:
    """``what`` is "grpc" or "accepts"; for the options see main.go."""
    seconds = float(str(options["warm"])) + float(str(options["seconds"]))
    command: list[str | Path] = [build(), what, *(f"{key}={value}" for key, value in options.items())]
    with start(f"the load on {name}", command, core) as load:
        return msgspec.json.decode(load.read_line(seconds + PATIENCE), type=Sample)
