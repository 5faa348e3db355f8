"""``python -m benchmarks``: 0 is success, 1 means wrong or missing answers, 2 that it could not run."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from pathlib import Path

from .broadcast.run import run_broadcast
from .floods.run import run_floods
from .herd.run import run_herd
from .idle.run import run_idle
from .machine import describe, pick_cores, require_javascript
from .measure import Result
from .processes import BenchmarkError
from .report import render, write_json
from .runner import DEFAULT, QUICK, run
from .streams.run import run_streams


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="wsrpc beside its likes")
    parser.add_argument("--quick", action="store_true", help="about 10 s: a smoke test, too short to quote")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample to FILE too")
    parser.add_argument("--without-js", action="store_true", help="leave the JavaScript server out")
    parser.add_argument("--streams", action="store_true", help="only streams, about 20 s (with --quick, 5 s)")
    parser.add_argument("--herd", action="store_true", help="only a thousand clients that are cut at once, about 30 s")
    parser.add_argument("--idle", action="store_true", help="only 10,000 connections that say nothing, about 2 min")
    parser.add_argument("--floods", action="store_true", help="only a client beside floods, about 4 min")
    parser.add_argument(
        "--broadcast", action="store_true", help="only a broadcast with one that never reads, about 30 s"
    )
    options = parser.parse_args()
    # A terminated run must end its servers, which happens on the way out of their blocks.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    began = time.monotonic()
    try:
        server_core, load_core = pick_cores()
        if options.herd:
            fine = run_herd(1 if options.quick else 5, server_core=server_core, load_core=load_core)
            return 0 if fine else 1
        if options.idle:
            count, seconds = (1000, 10.0) if options.quick else (10_000, 30.0)
            return 0 if run_idle(count, seconds, server_core=server_core, load_core=load_core) else 1
        if options.floods:
            return 0 if run_floods(2.0 if options.quick else 10.0, server_core=server_core, load_core=load_core) else 1
        if options.broadcast:
            count = 200 if options.quick else 1000
            return 0 if run_broadcast(count, server_core=server_core, load_core=load_core) else 1
        node = None if options.without_js or options.streams else require_javascript()
        facts = describe(server_core, load_core, node)
        plan = QUICK if options.quick else DEFAULT
        results: list[Result] = []
        if not options.streams:
            results += run(plan, server_core=server_core, load_core=load_core, node=node)
        streams, shared = run_streams(plan, server_core=server_core, load_core=load_core)
        results += streams
    except BenchmarkError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    seconds = time.monotonic() - began
    print(render(results, shared, facts))
    if options.json is not None:
        write_json(options.json, results, shared, facts, seconds)
    return 1 if shared.wrong or any(result.bad for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
