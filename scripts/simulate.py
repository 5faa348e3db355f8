"""wsrpc in its simulated world, with ever new seeds on all cores, until it is stopped.

Usage:
    python scripts/simulate.py [--seed 17] [--first 1000000] [--count 20000] [--jobs 2] [--world boards] [--stop]

Each story of a failure is kept in ``build/simulation/SEED.txt``. Every ten seconds, the number of seeds is printed.
With ``--stop``, the first failure is the end. With ``--seed``, one seed is played, and its story printed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from functools import partial
from itertools import count
from pathlib import Path

ROOT = Path(__file__).parent.parent
KEPT = ROOT / "build" / "simulation"
REPORT = 10.0
"""Seconds between two lines that say how many seeds were played."""
sys.path.insert(0, str(ROOT / "tests" / "simulation"))


def play(seed: int, name: str = "world") -> str:
    """Play one seed in a world. Returns the story of its failure."""
    from answers import answers
    from boards import SAFE, boards
    from world import world

    from wsrpc.testing import SimulationFailed, simulate

    try:
        if name == "world":
            simulate(world, seed=seed)
        else:
            simulate({"boards": boards, "answers": answers}[name], seed=seed, faults=SAFE)
    except SimulationFailed as failed:
        return str(failed)
    return ""


def play_one(seed: int, name: str) -> tuple[int, str]:
    return seed, play(seed, name)


def search(first: int, number: int | None, jobs: int, name: str, *, stop: bool) -> int:
    """Play seeds, and keep what fails. ``stop``: end with the first failure. Returns how many failed."""
    began, failed, played = time.monotonic(), 0, 0
    reported = began
    seeds = count(first) if number is None else range(first, first + number)
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        for seed, story in pool.imap_unordered(partial(play_one, name=name), seeds, chunksize=2):
            played += 1
            if story:
                failed += 1
                KEPT.mkdir(parents=True, exist_ok=True)
                (KEPT / f"{seed}{f'-{name}' * (name != 'world')}.txt").write_text(story, "utf-8")
                print(f"seed {seed} fails: {story.splitlines()[-1][:150]}", flush=True)
                if stop:
                    break
            if (now := time.monotonic()) >= reported + REPORT:
                reported = now
                print(f"{played} seeds in {now - began:.0f} s, {failed} failed", flush=True)
    print(f"{played} seeds in {time.monotonic() - began:.0f} s, {failed} failed")
    return failed


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int)
    parser.add_argument("--first", type=int, default=int(time.time()) * 1000)
    parser.add_argument("--count", type=int)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--world", choices=["world", "boards", "answers"], default="world")
    parser.add_argument("--stop", action="store_true", help="end with the first failure")
    options = parser.parse_args()
    if options.seed is not None:
        story = play(options.seed, options.world)
        print(story or f"seed {options.seed} passes")
        sys.exit(bool(story))
    try:
        sys.exit(bool(search(options.first, options.count, options.jobs, options.world, stop=options.stop)))
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
