"""The supported Pythons of this machine, and an environment with wsrpc for each of them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLDEST = (3, 11)
NEWEST = (3, 16)
"""One more than the newest that is out: what is a pre-release now is taken by itself once it is released."""
OLDEST_FREE = (3, 14)
"""The oldest free-threaded build: msgspec does not compile for earlier ones."""

ASK = (
    "import ensurepip, sys, sysconfig, venv; free = 't' * bool(sysconfig.get_config_var('Py_GIL_DISABLED')); "
    "print(*sys.version_info[:2], sys.version_info.releaselevel, sys.version.split()[0] + free)"
)

Version = tuple[int, int, str]
"""The third part is "t" for a free-threaded build, and otherwise empty."""

HERE: Version = (*sys.version_info[:2], "t" * bool(sysconfig.get_config_var("Py_GIL_DISABLED")))


def candidates() -> Iterator[Path]:
    """Whatever may be a Python, best first: on the PATH, then where pyenv and uv keep theirs."""
    names = [f"python3.{minor}{free}" for minor in range(OLDEST[1], NEWEST[1] + 1) for free in ("", "t")]
    for entry in os.environ.get("PATH", "").split(os.pathsep):
        yield from (Path(entry) / name for name in (*names, "python3"))
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    uv = Path(os.environ.get("UV_PYTHON_INSTALL_DIR") or Path.home() / ".local/share/uv/python")
    for folder in (pyenv / "versions", uv):
        # From the newest: of one minor version the latest patch counts.
        yield from sorted(folder.glob("*/bin/python3"), key=_numbers, reverse=True)


def _numbers(path: Path) -> list[int]:
    return [int(part) for part in path.parts[-3].replace("-", ".").split(".") if part.isdigit()]


def version_of(python: Path) -> tuple[Version, str] | None:
    """The version of a Python that runs, is a release and can make environments; None for anything else.

    pyenv's shims, for instance, are there for every version, and fail unless that is selected.
    """
    try:
        asked = subprocess.run([python, "-c", ASK], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if asked.returncode:
        return None
    major, minor, level, full = asked.stdout.split()
    return ((int(major), int(minor), "t" * full.endswith("t")), full) if level == "final" else None


def find() -> dict[Version, tuple[Path, str]]:
    """One Python for each supported minor version and kind, the one that this runs on among them."""
    found: dict[Version, tuple[Path, str]] = {HERE: (Path(sys.executable), sys.version.split()[0] + HERE[2])}
    seen: set[Path] = set()
    for path in candidates():
        if path in seen or not path.is_file() or not os.access(path, os.X_OK):
            continue
        seen.add(path)
        known = version_of(path)
        if known is not None and known[0][:2] >= (OLDEST_FREE if known[0][2] else OLDEST):
            found.setdefault(known[0], (path, known[1]))
    return dict(sorted(found.items()))


def environment(version: Version, python: Path) -> Path:
    """The Python of the environment for ``version``, which is made if it is not there or out of date."""
    folder = ROOT / ".venv-{}.{}{}".format(*version)
    stamp = folder / ".made"
    inside = folder / "bin/python"
    if stamp.exists() and stamp.stat().st_mtime >= (ROOT / "pyproject.toml").stat().st_mtime:
        return inside
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([python, "-m", "venv", folder], check=True)
    pip = [str(inside), "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
    subprocess.run([*pip, "--upgrade", "pip>=25.1"], check=True)
    subprocess.run([*pip, "--editable", ".[all]", "--group", "test", "--group", "frameworks"], check=True, cwd=ROOT)
    stamp.touch()
    return inside
