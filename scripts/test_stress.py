"""`make test` again and again, beside programs that keep the machine busy, to find tests that depend on its speed.

Usage:
    python scripts/test_stress.py [--runs 20] [--load 8] [arguments for pytest]

What a run prints is kept in ``build/stress``. Do not run a test that has failed again to see whether it passes:
look for what it depends on.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parent.parent
KEPT = ROOT / "build" / "stress"
BUSY = "import os, sys\nwhile str(os.getppid()) == sys.argv[1]: pass"


@contextmanager
def busy(count: int) -> Generator[None]:
    """Run programs that never wait. They end with this one, however it ends."""
    mine = str(os.getpid())
    loops = [subprocess.Popen([sys.executable, "-c", BUSY, mine]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def failures(number: int, arguments: list[str]) -> list[str]:
    """Run the tests once. Returns the tests that failed, or what `make` said last if it did not come so far."""
    command = ["make", "--no-print-directory", "test", f"ARGS={shlex.join(['-rfE', *arguments])}"]
    done = subprocess.run(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    (KEPT / f"{number}.txt").write_text(done.stdout, "utf-8")
    failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
    return failed or done.stdout.splitlines()[-1:] * bool(done.returncode)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--load", type=int, default=8, help="programs that never wait")
    options, arguments = parser.parse_known_args()
    KEPT.mkdir(parents=True, exist_ok=True)
    all_failed = Counter[str]()
    with busy(options.load):
        for number in range(1, options.runs + 1):
            began = time.monotonic()
            failed = failures(number, arguments)
            all_failed.update(failed)
            said = f"failed: {', '.join(failed)}" if failed else "passed"
            print(f"run {number} of {options.runs}: {time.monotonic() - began:.0f} s, {said}", flush=True)
    for name, count in all_failed.most_common():
        print(f"{count} of {options.runs}: {name}")
    sys.exit(bool(all_failed))


if __name__ == "__main__":
    main()
