"""Child processes: pinned to a core, spoken with in lines, and ended with the run."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parent.parent


class BenchmarkError(Exception):
    """The run cannot go on; the text says what to do about it."""


class Child:
    """A running process that is spoken with in lines."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], errors: IO[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.name = name
        self.pid = process.pid
        self._process = process
        self._stdin, self._stdout, self._errors = process.stdin, process.stdout, errors

    def read_line(self, timeout: float) -> str:
        """The next line of stdout. Raises BenchmarkError if it does not come, with what is on stderr."""
        readable, _, _ = select.select([self._stdout], [], [], timeout)
        line = self._stdout.readline().decode() if readable else ""
        if line.endswith("\n"):
            return line.strip()
        problem = f"ended with status {self._process.wait(5)}" if readable else f"said nothing for {timeout:g} s"
        self._errors.seek(0)
        errors = self._errors.read().decode(errors="replace").strip()
        raise BenchmarkError(f"{self.name}: {problem}\n{errors[-3000:] or '(nothing on stderr)'}")

    def write_line(self, line: str) -> None:
        self.write(f"{line}\n".encode())

    def write(self, data: bytes) -> None:
        # A process that has ended says why when its answer is read.
        with suppress(BrokenPipeError):
            while data:
                data = data[self._stdin.write(data) :]

    def pause(self) -> None:
        """Stop the process where it is. A server that is not measured then costs the others nothing."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def end(self) -> None:
        """Closes stdin, upon which the process should end, and kills it if it does not."""
        self.resume()
        self._stdin.close()
        try:
            self._process.wait(3)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._stdout.close()


@contextmanager
def start(name: str, command: Sequence[str | Path], *cores: int) -> Iterator[Child]:
    """Runs a process, and all its threads, on one core, or on several. It ends with the block."""
    with tempfile.TemporaryFile() as errors:
        with _pinned(*cores):
            # Unbuffered, so that select() sees every byte that has not been read.
            process = subprocess.Popen(
                command, bufsize=0, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors
            )
        child = Child(name, process, errors)
        try:
            yield child
        finally:
            child.end()


@contextmanager
def _pinned(*cores: int) -> Iterator[None]:
    """What is started inside inherits the core; pinning it afterwards would miss threads it already has."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
