"""``python -m benchmarks.latency``: 0 is success, 1 means wrong or missing answers, 2 that it could not run."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import msgspec

from ..machine import describe, pick_cores
from ..processes import BenchmarkError
from .report import print_latency
from .subjects import lines


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.latency", description="latency at fixed rates")
    parser.add_argument("--quick", action="store_true", help="about 25 s: a smoke test, too short to quote")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample to FILE too")
    parser.add_argument(
        "--without", action="append", default=[], metavar="NAME", help="leave out a subject, or what needs NAME"
    )
    options = parser.parse_args()
    try:
        server_core, load_core = pick_cores()
        facts = describe(server_core, load_core, [line.subject for line in lines(tuple(options.without))])
        rows = print_latency(options.quick, tuple(options.without), server_core=server_core, load_core=load_core)
    except BenchmarkError as error:
        print(f"benchmarks.latency: {error}", file=sys.stderr)
        return 2
    if options.json is not None:
        document = {"machine": facts, "rows": rows}
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n")
    return 1 if any(row.bad for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
