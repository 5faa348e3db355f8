"""Autobahn's test suite against wsrpc's raw connections and transports, on each library, and against the library alone.

`python -m interop.autobahn --wstest PROGRAM [NAME ...]` writes results.md, which docs/contributing/autobahn.md shows.
PROGRAM is the suite's own `wstest`, which needs Python 2.7: `pip install autobahntestsuite` there.
"""

from __future__ import annotations

import argparse
import json
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from . import RESULTS
from .clients import CLIENTS
from .echoes import ECHOES

ROOT = Path(__file__).parent.parent.parent

GOOD = ["OK", "NON-STRICT", "INFORMATIONAL", "UNIMPLEMENTED"]
"""Verdicts that are no failure, best first."""
PACKAGES = {"websockets": "websockets", "aiohttp": "aiohttp", "asgi": "uvicorn", "uvicorn": "uvicorn"}
OPTIONS = {"uvicorn": ", `--ws wsrpc_adapters.uvicorn:WebSocketProtocol`"}
"""What the page adds to the name of a library."""

CASES = [f"{section}.*" for section in (1, 2, 3, 4, 5, 6, 7, 9, 10)]
COMPRESSION = ["12.*", "13.*"]

Report = dict[str, dict[str, Any]]
"""The verdicts of each case, and other facts."""


def serve(wstest: str, name: str, which: str, cases: list[str]) -> Report:
    """The suite connects to an echo server."""
    program = [sys.executable, "-m", "interop.autobahn.echoes", name, which]
    with subprocess.Popen(program, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as echo:
        try:
            assert echo.stdout is not None
            url = echo.stdout.readline().strip()
            with suite(wstest, "fuzzingclient", cases, servers=[{"agent": "echo", "url": url}]) as (tests, reports):
                assert tests.wait() == 0
                return report(reports)
        finally:
            echo.terminate()


def dial(wstest: str, name: str, which: str, cases: list[str]) -> Report:
    """An echo client connects to the suite, once for each case."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"ws://127.0.0.1:{port}"
    with suite(wstest, "fuzzingserver", cases, url=url) as (tests, reports):
        try:
            listening = False
            while not listening:
                assert tests.poll() is None
                time.sleep(0.1)
                with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                    listening = True
            program = [sys.executable, "-m", "interop.autobahn.clients", name, which, url]
            subprocess.run(program, cwd=ROOT, check=True, stderr=subprocess.DEVNULL)
            return report(reports)
        finally:
            tests.terminate()


@contextmanager
def suite(
    wstest: str, mode: str, cases: list[str], **options: object
) -> Generator[tuple[subprocess.Popen[bytes], Path]]:
    """Run the suite's program. Gives the process, and the folder in which it writes its reports."""
    with tempfile.TemporaryDirectory() as folder:
        spec = {"outdir": folder, "cases": cases, "exclude-cases": [], "exclude-agent-cases": {}, **options}
        (Path(folder) / "spec.json").write_text(json.dumps(spec), "utf-8")
        command = [wstest, "--mode", mode, "--spec", f"{folder}/spec.json", "--webport", "0"]
        with subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL) as process:
            yield process, Path(folder)


def report(folder: Path) -> Report:
    found: Report = json.loads((folder / "index.json").read_text("utf-8"))["echo"]
    return found


def judged(case: dict[str, Any]) -> str:
    """One verdict: how it behaved, or how it closed if only that was wrong."""
    closed: str = case["behaviorClose"]
    return str(case["behavior"]) if case["behavior"] not in GOOD or closed in GOOD else f"CLOSE: {closed}"


def summary(verdicts: dict[str, str]) -> str:
    return ", ".join(f"{count} {verdict}" for verdict, count in sorted(Counter(verdicts.values()).items()))


def by_number(case: str) -> list[int]:
    return [int(part) for part in case.split(".")]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m interop.autobahn")
    parser.add_argument("--wstest", required=True, help="the suite's program")
    parser.add_argument("--compression", action="store_true", help="the 216 cases of permessage-deflate, too")
    parser.add_argument("names", nargs="*", default=list(ECHOES))
    options = parser.parse_args()
    cases = [*CASES, *COMPRESSION] if options.compression else CASES
    worse_anywhere = False
    tables: list[str] = []
    for title, run, libraries in (("Servers", serve, ECHOES), ("Clients", dial, CLIENTS)):
        lines = [f"### {title}", "", "| library | library alone | with wsrpc | worse with wsrpc |", "|---|---|---|---|"]
        for name in options.names:
            if name not in libraries:
                continue
            alone, ours = (
                {case: judged(result) for case, result in run(options.wstest, name, which, cases).items()}
                for which in ("alone", "wsrpc")
            )
            failed = sorted((case for case in ours if ours[case] not in GOOD), key=by_number)
            worse = [case for case in failed if alone.get(case) in GOOD]
            worse_anywhere |= bool(worse)
            shown = ", ".join(f"{case} ({ours[case]})" for case in worse) or "none"
            package = PACKAGES[name]
            library = f"{package} {version(package)}{OPTIONS.get(name, '')}"
            lines.append(f"| {library} | {summary(alone)} | {summary(ours)} | {shown} |")
            print(f"{title}: {lines[-1]} Failed with wsrpc: {', '.join(failed) or 'none'}", flush=True)
        tables.append("\n".join(lines))
    if set(options.names) == set(ECHOES):
        without = "" if options.compression else "The cases of compression, which the libraries do, were left out.\n\n"
        RESULTS.write_text(without + "\n\n".join(tables) + "\n", "utf-8")
    return worse_anywhere


if __name__ == "__main__":
    sys.exit(main())
