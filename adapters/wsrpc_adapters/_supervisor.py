"""`Supervisor`: starts, replaces and ends the workers of `wsrpc_adapters.uvicorn.serve`. It imports no application."""

from __future__ import annotations

import errno
import logging
import math
import multiprocessing
import signal
import socket
import time
from collections import deque
from contextlib import suppress
from pathlib import Path

import uvicorn

from ._worker import EXIT_TIMEOUT, Order, WorkerSettings, run_worker

START_TIMEOUT = 120.0
"""Seconds after which a worker that has not started is killed."""
LONGEST_DELAY = 30.0
CHECK_INTERVAL = 0.1
"""Seconds between two looks at the signals and the workers."""
SIGNALS = ("SIGINT", "SIGTERM", "SIGBREAK", "SIGHUP")  # Windows has SIGBREAK, and no SIGHUP

spawn = multiprocessing.get_context("spawn")
logger = logging.getLogger("uvicorn.error")


def bind(config: uvicorn.Config) -> tuple[socket.socket, str]:
    """Return the listening socket, and its address for the log.

    Raises:
        OSError: the address is in use, or cannot be listened on. The text has the address.
    """
    if config.uds is not None or config.fd is not None:
        if config.uds is not None and Path(config.uds).is_socket():
            with socket.socket(socket.AF_UNIX) as probe:
                if probe.connect_ex(config.uds) == 0:
                    raise OSError(errno.EADDRINUSE, f"cannot listen on {config.uds}: another process listens there")
            Path(config.uds).unlink()  # a process that was killed has left it
        try:
            return config.bind_socket(), config.uds or f"file descriptor {config.fd}"
        except SystemExit:
            raise OSError(errno.EINVAL, f"cannot listen on {config.uds or config.fd}: see the log") from None
    family, host = (socket.AF_INET6, f"[{config.host}]") if ":" in config.host else (socket.AF_INET, config.host)
    try:
        listener = socket.create_server((config.host, config.port), family=family)
    except OSError as exc:
        reason = str(exc.strerror).partition(" (while")[0]
        raise OSError(exc.errno, f"cannot listen on {host}:{config.port}: {reason}") from exc
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # its connections inherit it
    return listener, f"{'https' if config.is_ssl else 'http'}://{host}:{listener.getsockname()[1]}"


class Worker:
    """One process, from its start until it has ended."""

    def __init__(self, settings: WorkerSettings, listener: socket.socket) -> None:
        self._channel, other_end = spawn.Pipe()
        self.process = spawn.Process(target=run_worker, args=(settings, listener, other_end))
        self.process.start()
        other_end.close()
        self.ready = False
        self._start_until = time.monotonic() + START_TIMEOUT
        self.outdated = False
        """Whether another worker shall replace it."""
        self.asks = False
        """Whether it has asked for that itself, because it has to end."""
        self.failure = ""
        """The reason why it cannot start, with details on further lines."""
        self.killed_at: float | None = None
        """The time at which it is killed if it has not ended. None until it has got an order to end."""

    def update(self) -> None:
        """Read what it has reported."""
        with suppress(EOFError, OSError):  # it has ended
            while self._channel.poll():
                kind, text = self._channel.recv()
                self.ready |= kind == "ready"
                self.asks |= kind == "outdated"
                self.outdated |= self.asks
                self.failure += text

    def end(self, order: Order, patience: float) -> None:
        self.killed_at = min(time.monotonic() + patience, self.killed_at or math.inf)
        with suppress(OSError):  # it has ended
            self._channel.send(order)
        if not self.ready:  # the import of an application may take long
            self.process.terminate()

    def kill_when_due(self) -> None:
        if self.killed_at is None and not self.ready and self._start_until <= time.monotonic():
            self.failure = f"it has not started within {START_TIMEOUT:g} s"
            self.process.kill()
        if self.killed_at is not None and self.killed_at <= time.monotonic():
            logger.error("%s has not ended in time, killing it", self)
            self.process.kill()
            self.killed_at = math.inf

    @property
    def ending(self) -> str:
        """How it has ended. A process that was killed has logged nothing."""
        status = self.process.exitcode or 0
        return f"exit status {status}; see its log" if status >= 0 else f"killed by {signal.Signals(-status).name}"

    def __str__(self) -> str:
        return f"worker [{self.process.pid}]"


class Supervisor:
    """Keeps ``count`` workers serving, until a signal ends all.

    The workers accept connections from one socket, which the supervisor keeps open: while a worker is replaced, new
    connections wait for the others.
    """

    def __init__(self, settings: WorkerSettings, count: int, listener: socket.socket, address: str) -> None:
        self._settings = settings
        self._count = count
        self._listener = listener
        self._address = address
        self._patience = settings.drain_timeout + EXIT_TIMEOUT
        self._workers: list[Worker] = []
        self._signals: deque[int] = deque()
        self._stopping = False
        self._started = False
        """Whether all workers were ready at some time. Until then, a worker that cannot start ends all."""
        self._failure = ""
        self._deaths: deque[float] = deque()
        """The times of the last minute at which workers died."""

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT. For the main thread.

        Raises:
            RuntimeError: the application cannot be imported, or does not start.
        """
        numbers = [getattr(signal, name) for name in SIGNALS if hasattr(signal, name)]
        before = {number: signal.signal(number, lambda number, _: self._signals.append(number)) for number in numbers}
        try:
            while not (self._stopping and not self._workers):
                self._step()
                time.sleep(CHECK_INTERVAL)
        finally:
            for worker in self._workers:
                worker.process.kill()
                worker.process.join()
            for number, handler in before.items():
                signal.signal(number, handler)
        if self._failure:
            raise RuntimeError(self._failure)

    def _step(self) -> None:
        while self._signals:
            self._handle_signal(signal.Signals(self._signals.popleft()).name)
        for worker in self._workers.copy():
            has_ended = worker.process.exitcode is not None
            worker.update()
            worker.kill_when_due()
            if has_ended:
                self._workers.remove(worker)
                self._handle_end(worker)
        if not self._stopping:
            self._balance()

    def _handle_signal(self, name: str) -> None:
        if name == "SIGHUP":
            logger.info("%s: replacing the workers, one after another", name)
            for worker in self._workers:
                worker.update()  # it may have begun to serve since the last step
                worker.outdated = True
                if self._started and not worker.ready:  # it may have begun to import the code of before
                    worker.end("close", 0)
        elif self._stopping:
            logger.info("%s: closing", name)
            self._end_all("close", EXIT_TIMEOUT)
        else:
            logger.info("%s: draining; another signal closes at once", name)
            self._end_all("stop", self._patience)

    def _end_all(self, order: Order, patience: float) -> None:
        self._stopping = True
        self._listener.close()  # the workers have copies, and refuse connections when they are done
        for worker in self._workers:
            worker.end(order, patience)

    def _handle_end(self, worker: Worker) -> None:
        if worker.killed_at is not None:
            logger.info("%s has ended", worker)
            return
        failure = worker.failure or worker.ending
        is_replacement = len(self._serving) >= self._count
        if not worker.ready and not self._started:
            self._failure = f"{self._settings.app} does not start: {failure}"
            self._end_all("stop", self._patience)
        elif not worker.ready and is_replacement:
            logger.error("new %s cannot start, the others stay: %s", worker, failure)
            self._deaths.append(time.monotonic())
            for each in self._workers:
                each.outdated = each.asks
        else:
            logger.error("%s has died, starting another one: %s", worker, failure)
            self._deaths.append(time.monotonic())

    @property
    def _serving(self) -> list[Worker]:
        """The workers that have not got an order to end. Those that are to be replaced come first."""
        return sorted((each for each in self._workers if each.killed_at is None), key=lambda each: not each.outdated)

    def _balance(self) -> None:
        """Start a worker, or end one, if that is due. Only one at a time is replaced."""
        serving = self._serving
        if len(serving) < self._count:
            self._start()
        elif len(serving) == len(self._workers) and all(each.ready for each in serving):
            if not self._started:
                self._started = True
                logger.info("Uvicorn running on %s with %d workers (Press CTRL+C to quit)", self._address, self._count)
            if len(serving) > self._count:
                serving[0].end("leave", self._patience)
            elif serving[0].outdated:
                self._start()

    def _start(self) -> None:
        """Start a worker, or wait, if more workers than there are have died in a minute."""
        now = time.monotonic()
        while self._deaths and self._deaths[0] < now - 60:
            self._deaths.popleft()
        many = len(self._deaths) - self._count
        if many > 0 and now < self._deaths[-1] + min(2.0 ** (many - 1), LONGEST_DELAY):
            return
        try:
            self._workers.append(Worker(self._settings, self._listener))
        except OSError as exc:  # there are too many processes or files
            logger.error("cannot start a worker: %s", exc)
            self._deaths.append(now)
