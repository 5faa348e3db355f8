"""A store that somebody has made who does not keep to the contract."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from typing import Any

from wsrpc.errors import WsrpcError
from wsrpc.store import StoreFull, StoreLost
from wsrpc.testing import Simulation

__all__ = ["OddStore", "expecting_odd_errors"]


class DiskFull(StoreLost):
    """As the store in a file raises."""


class OddStore:
    """The store of a simulation. While it is lossy, some calls also raise other exceptions, before or after their step.

    The contract has `StoreLost` for that. What a process goes on with must survive other exceptions, too.
    """

    def __init__(self, store: Any, sim: Simulation) -> None:
        self._store, self._sim, self._random = store, sim, sim.random_of(f"odd store of {sim.here}")
        self._times = [(fault.when, fault.when + fault.seconds) for fault in sim.faults if fault.kind == "lossy store"]

    @property
    def lease(self) -> Any:
        return self._store.lease

    def __repr__(self) -> str:
        return "<OddStore>"

    def __getattr__(self, name: str) -> Any:
        return partial(self._ask, name, getattr(self._store, name))

    async def _ask(self, name: str, method: Any, *args: Any, **options: Any) -> Any:
        is_odd = any(begin <= self._sim.now < end for begin, end in self._times) and self._random.random() < 0.5
        may_be_full = name == "open" or (name == "append" and args[4])
        kinds: list[type[Exception]] = [OSError, DiskFull, *[StoreFull] * bool(may_be_full)]
        error = self._random.choice(kinds)("odd")
        if is_odd and self._random.random() < 0.5:
            raise error
        result = await method(*args, **options)
        if is_odd and not isinstance(error, StoreFull):  # who reads that knows that nothing was done
            raise error
        return result


def _lower_level(record: logging.LogRecord) -> bool:
    """Let an error in the log count as a warning if the store has raised it."""
    error = record.exc_info[1] if record.exc_info else None
    while error is not None and not isinstance(error, WsrpcError | OSError):
        error = error.__cause__ or error.__context__
    if record.levelno == logging.ERROR and error is not None and error.args == ("odd",):
        record.levelno, record.levelname, record.exc_info = logging.WARNING, "WARNING", None
    return True


@contextmanager
def expecting_odd_errors() -> Generator[None]:
    """Let errors in the log that an odd store has raised count as warnings within this block."""
    log = logging.getLogger("wsrpc")
    log.addFilter(_lower_level)
    try:
        yield
    finally:
        log.removeFilter(_lower_level)
