"""The benchmarks of clusters, each for a moment: whether they measure at all, not what."""

from __future__ import annotations

import pytest

from benchmarks.cluster.brokers import serving
from benchmarks.cluster.calls import measure
from benchmarks.cluster.directory import fill, join
from benchmarks.cluster.emits import workers_of
from benchmarks.machine import pick_cores

CORES = pick_cores()


@pytest.mark.parametrize("kind", ["nats", "redis"])
def test_calls_and_streams_are_answered_rightly(kind: str) -> None:
    measured = measure(kind, 1, 0.2, 100, *CORES)
    whats = ["calls", "paced", "stream", "upload"]
    assert list(measured) == [name for what in whats for name in (what, f"{what}, local")]
    for name, [one] in measured.items():
        assert one.result.done and not one.result.wrong, name
        assert len(one.cpu) == 4 and bool(one.result.p99) == ("paced" in name), name


def test_every_member_gets_what_is_emitted() -> None:
    """With wsrpc: python-socketio is there only where the benchmarks themselves are run."""
    with serving("redis", *CORES) as (url, _), workers_of("wsrpc", url, 10, *CORES) as workers:
        for at_once in (1, 4):
            assert workers.measure(8, at_once) >= 0, "else it waits for messages that do not come"


def test_a_node_that_joins_and_one_with_rooms_are_measured() -> None:
    with serving("redis", *CORES) as (url, _):
        plain, traced = join(url, 2, 1000, 1, *CORES)
        assert 0 < plain.entered <= plain.known and plain.traced == 0 < traced.traced
        filled = fill(url, 50, *CORES)
        assert 0 < filled.adding <= filled.known and filled.one_more > 0
