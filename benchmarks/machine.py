"""What the numbers were measured on."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from importlib import metadata, util
from pathlib import Path

from .processes import ROOT, BenchmarkError

NODE_MODULES = ROOT / "interop" / "js" / "node_modules"


def pick_cores() -> tuple[int, int]:
    """One core for the server and one for the load; threads of one physical core only if need be."""
    if not hasattr(os, "sched_getaffinity"):
        raise BenchmarkError("the benchmarks pin processes to cores, which works on Linux only")
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise BenchmarkError("the benchmarks need two cores: on one, server and load would only take turns")
    siblings = _siblings(cores[0])
    return cores[0], next((core for core in cores[1:] if core not in siblings), cores[1])


def require_javascript() -> str:
    """The path of node. Raises BenchmarkError if it or the JavaScript libraries are missing."""
    node = shutil.which("node")
    if node is None:
        raise BenchmarkError("node is missing: install Node.js, or leave its server out with --without-js")
    for package in ("ws", "ws-wrapper"):
        if not (NODE_MODULES / package).is_dir():
            raise BenchmarkError(
                f"the JavaScript package {package} is missing: run `npm install` in interop/js, "
                "or leave that server out with --without-js"
            )
    return node


def describe(server_core: int, load_core: int, node: str | None) -> dict[str, str]:
    """Facts for the foot of the table, name by name."""
    speedups = "with" if util.find_spec("websockets.speedups") else "WITHOUT"
    facts = {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "wsrpc": _version("python-wsrpc"),
        "websockets": f"{_version('websockets')} ({speedups} its C speedups)",
        "msgspec": _version("msgspec"),
    }
    if node is not None:
        facts["node"] = subprocess.check_output([node, "--version"], text=True).strip()
        for package in ("ws", "ws-wrapper"):
            facts[package] = str(json.loads((NODE_MODULES / package / "package.json").read_text())["version"])
    facts["system"] = f"{platform.system()} {platform.release()} {platform.machine()}"
    facts["cpu"] = f"{_cpu_model()}, {os.cpu_count()} cores"
    facts["pinned"] = f"servers to core {server_core}, load and clients to core {load_core}"
    if load_core in _siblings(server_core):
        facts["pinned"] += " (threads of one physical core: the load slows the server)"
    # Read before anything is measured: what is above zero here is other work, and noise.
    facts["load average before"] = f"{os.getloadavg()[0]:.2f}"
    return facts


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed, taken from the source tree"


def _siblings(core: int) -> set[int]:
    path = Path(f"/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list")
    if not path.exists():
        return {core}
    siblings: set[int] = set()
    for part in path.read_text().strip().split(","):
        first, _, last = part.partition("-")
        siblings.update(range(int(first), int(last or first) + 1))
    return siblings


def _cpu_model() -> str:
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
