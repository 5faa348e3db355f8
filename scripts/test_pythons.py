"""Runs the unit tests on every supported Python but the one that ``make test`` uses, free-threaded builds among them,
and on the newest that has the GIL also what each host has to pass.

Each gets an environment of its own, ``.venv-3.12`` and so on, with all extras and the dependency groups ``test`` and
``frameworks``; it is made anew when pyproject.toml has changed. Nothing is left out for any version: a dependency that
pip cannot install fails the run, and pip names it. (In November 2026 all dependencies have wheels for 3.11 to 3.15.)

The tests need nats-server, redis-server, Node and its packages: ``make test-pythons`` sees to that.

Usage: python -m scripts.test_pythons [--newest] [arguments for pytest]

With ``--newest`` only the newest that has the GIL is tested.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from interop.pythons import HERE, OLDEST, environment, find

ROOT = Path(__file__).resolve().parent.parent
TESTS = ["tests/unit"]
NEWEST = [*TESTS, *(str(path.relative_to(ROOT)) for path in sorted(ROOT.glob("tests/adapters/test_contract_*.py")))]
"""What differs on a version between the oldest and the newest shows in the unit tests."""


def main(arguments: list[str]) -> int:
    pythons = find()
    others = {version: python for version, python in pythons.items() if version != HERE}
    newest = [version for version in others if not version[2]][-1:]
    if "--newest" in arguments:
        arguments = [argument for argument in arguments if argument != "--newest"]
        others = {version: others[version] for version in newest}
    for version, (path, full) in pythons.items():
        print(f"Python {full}: {path}{'  (make test runs on this one)' if version == HERE else ''}")
    if not others:
        print(
            f"\nThis is the only supported Python here ({OLDEST[0]}.{OLDEST[1]} or later), and wsrpc has to pass on\n"
            "others, too. Install one: `uv python install 3.13`, `pyenv install 3.13`, your system's packages, or\n"
            "https://www.python.org/downloads/. It is found on the PATH, and where pyenv and uv keep theirs.",
            file=sys.stderr,
        )
        return 1
    failed: list[str] = []
    for version, (path, full) in others.items():
        print(f"\nPython {full}", flush=True)
        try:
            inside = environment(version, path)
        except subprocess.CalledProcessError as exc:
            print(f"Its environment could not be made: {exc}", file=sys.stderr)
            failed.append(full)
            continue
        command = [str(inside), "-m", "pytest", "-q", "-n", "auto", "--maxprocesses=4", "--dist=worksteal"]
        # asyncio's debug mode is a matter of `make test`.
        quick = {**os.environ, "WSRPC_QUICK": "1"}
        if version[2]:  # otherwise an extension module that does not say that it needs no GIL would turn it on
            quick["PYTHON_GIL"] = "0"
        tests = NEWEST if version in newest else TESTS
        if subprocess.run([*command, *tests, *arguments], cwd=ROOT, env=quick).returncode:
            failed.append(full)
    if failed:
        print(f"\nThe tests fail on Python {', '.join(failed)}.", file=sys.stderr)
    else:
        print(f"\nThe tests pass on Python {', '.join(full for _, full in others.values())}, too.")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
