"""What a node must know: 50,000 addresses of 15 others, and 10,000 rooms."""

from __future__ import annotations

import sys
from statistics import median

import msgspec

from ..processes import start
from .brokers import serving
from .joiner import Joined
from .rooms import Filled

__all__ = ["fill", "join", "run_directory"]

OTHERS, ADDRESSES, ROOMS = 15, 50_000, 10_000
MOST_SECONDS = 1.0
MOST_BYTES = 20_000_000


def run_directory(rounds: int, *cores: int) -> bool:
    """Print what joining takes, and whether that is little enough; and what rooms take."""
    fine = True
    for kind in ("nats", "redis"):
        with serving(kind, *cores) as (url, _):
            *joined, traced = join(url, OTHERS, ADDRESSES, rounds, *cores)
            known = median(each.known for each in joined)
            resident = max(each.resident for each in joined)
            print(
                f"{kind}: a node that joins {OTHERS} others knows their {ADDRESSES:,} addresses after {known:.2f} s, "
                f"{max(each.known for each in joined):.2f} s at most (asked: {MOST_SECONDS:g}); it grows by "
                f"{resident / 1e6:.1f} MB (asked: {MOST_BYTES / 1e6:g}), {traced.traced / 1e6:.1f} MB of them Python's"
            )
            fine &= known <= MOST_SECONDS and max(resident, traced.traced) <= MOST_BYTES
            filled = fill(url, ROOMS, *cores)
            print(
                f"{kind}: a room gets its first member in {1e6 * filled.adding / ROOMS:.1f} us, "
                f"{1e6 * filled.adding_alone / ROOMS:.1f} us without a cluster; {ROOMS:,} rooms are known elsewhere "
                f"after {1e3 * filled.known:.0f} ms, one more after {1e3 * filled.one_more:.2f} ms; a room takes "
                f"{filled.bytes / ROOMS / 2:.0f} bytes at either node, besides the room itself"
            )
    return fine


def join(url: str, nodes: int, addresses: int, rounds: int, *cores: int) -> list[Joined]:
    """Let a node join others that have addresses, so many times, and once more while memory is traced.

    Raises:
        BenchmarkError: a process cannot be started, or says nothing.
    """
    command = [sys.executable, "-m", f"{__package__}.others", url, str(nodes), str(addresses)]
    with start("the other nodes", command, *cores) as others:
        others.read_line(60)
        joined: list[Joined] = []
        for number in range(rounds + 1):
            command = [sys.executable, "-m", f"{__package__}.joiner", url, str(addresses)]
            command += ["traced"] * (number == rounds)
            with start("the node that joins", command, *cores) as joiner:
                joined.append(msgspec.json.decode(joiner.read_line(60), type=Joined))
        return joined


def fill(url: str, count: int, *cores: int) -> Filled:
    """Fill so many rooms.

    Raises:
        BenchmarkError: the process cannot be started, or says nothing.
    """
    command = [sys.executable, "-m", f"{__package__}.rooms", url, str(count)]
    with start("the nodes with rooms", command, *cores) as rooms:
        return msgspec.json.decode(rooms.read_line(60), type=Filled)
