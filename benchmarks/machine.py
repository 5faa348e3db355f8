"""What the numbers were measured on."""

from __future__ import annotations

import json
import os
import platform
import resource
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata, util
from pathlib import Path

from interop.golang import find_go

from .processes import ROOT, BenchmarkError
from .programs import INSTALL, find_node
from .subjects import Subject

NODE_MODULES = ROOT / "interop" / "js" / "node_modules"


def pick_cores() -> tuple[int, int]:
    """One core for the server and one for the load, far apart: neighbours can be threads of one physical core."""
    if not hasattr(os, "sched_getaffinity"):
        raise BenchmarkError("the benchmarks pin processes to cores, which works on Linux only")
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise BenchmarkError("the benchmarks need two cores: on one, server and load would only take turns")
    return cores[0], cores[-1]


def allow_descriptors(needed: int) -> None:
    """Raise this process's limit of open files, which its children inherit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise BenchmarkError(f"{needed} open files are needed, and `ulimit -Hn` says {hard}: raise that")
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def require(subjects: Sequence[Subject]) -> None:
    """Raise BenchmarkError, with one sentence for each thing, if something is missing that the subjects need."""
    missing = [need for need in dict.fromkeys(need for subject in subjects for need in subject.needs) if not _has(need)]
    if missing:
        packages = [need for need in missing if need not in INSTALL]
        sentences = [f"{need} is missing. {INSTALL[need]}" for need in missing if need in INSTALL]
        if packages:
            sentences.append(
                f"Python packages are missing: {', '.join(packages)}. "
                "`make bench` installs them; by hand it is `pip install --group bench`"
            )
        leave = " ".join(f"--without {need}" for need in missing)
        raise BenchmarkError(f"{'. '.join(sentences)}. Or leave out what needs them: {leave}")


def _has(need: str) -> bool:
    if need == "node":
        return shutil.which("node") is not None and all((NODE_MODULES / name).is_dir() for name in ("ws", "ws-wrapper"))
    if need == "go":
        try:
            find_go()
        except RuntimeError:
            return False
        return True
    try:
        return util.find_spec(need) is not None
    except ModuleNotFoundError:  # of a package that it is in
        return False


PACKAGES = {
    "aiohttp": "aiohttp",
    "uvicorn": "uvicorn",
    "fastapi": "fastapi",
    "uvloop": "uvloop",
    "httptools": "httptools",
    "socketio": "python-socketio",
    "grpc": "grpcio",
    "google.protobuf": "protobuf",
    "fastapi_websocket_rpc": "fastapi-websocket-rpc",
    "socketify": "socketify",
}
"""Distributions of the Python modules that `Subject.needs` names."""


def describe(server_core: int, load_core: int, subjects: Sequence[Subject]) -> dict[str, str]:
    """Facts for the foot of the report, name by name."""
    speedups = "with" if util.find_spec("websockets.speedups") else "WITHOUT"
    facts = {
        "CPU": f"{_cpu_model()}, {os.cpu_count()} cores",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cores": f"servers on core {server_core}, load generators and clients on core {load_core}",
    }
    # Read before anything is measured: what is above zero here is other work, and noise.
    facts["load average before the run"] = f"{os.getloadavg()[0]:.2f}"
    facts |= {
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "wsrpc": _version("python-wsrpc"),
        "websockets": f"{_version('websockets')} ({speedups} its C speedups)",
        "msgspec": _version("msgspec"),
    }
    needs = {need for subject in subjects for need in subject.needs}
    facts |= {name: _version(name) for module, name in PACKAGES.items() if module in needs}
    if "node" in needs:
        facts |= node_facts("ws", "ws-wrapper")
    if "go" in needs:
        facts["Go"] = subprocess.check_output([find_go(), "env", "GOVERSION"], text=True).strip()
        facts["ws-wrapper in Go"] = (
            f"the real ws-server-wrapper-go, {os.environ['WS_WRAPPER_GO']}"
            if os.environ.get("WS_WRAPPER_GO")
            else "not the real library, but the stand-in in interop/go/played, because WS_WRAPPER_GO is not set"
        )
    return facts


def node_facts(*packages: str) -> dict[str, str]:
    """The versions of Node and of packages in interop/js. Raises BenchmarkError if Node is missing."""
    facts = {"Node": subprocess.check_output([find_node(), "--version"], text=True).strip()}
    for package in packages:
        facts[package] = str(json.loads((NODE_MODULES / package / "package.json").read_text())["version"])
    return facts


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed, taken from the source tree"


def _cpu_model() -> str:
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
