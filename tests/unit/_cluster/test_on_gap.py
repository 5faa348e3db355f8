"""Which functions `Cluster.on_gap` takes."""

from __future__ import annotations

from typing import Any

import pytest

from wsrpc.cluster import Cluster
from wsrpc.testing import MemoryEngine


@pytest.mark.parametrize(
    "given",
    [None, "missed", lambda: None, lambda room, other: None],
    ids=["None", "text", "no argument", "two arguments"],
)
def test_what_could_not_be_called_with_a_room_is_refused(given: Any) -> None:
    with pytest.raises(TypeError, match="on_gap"):
        Cluster(MemoryEngine()).on_gap(given)


def test_a_decorated_function_stays_what_it_was() -> None:
    def missed(room: object) -> None: ...

    assert Cluster(MemoryEngine()).on_gap(missed) is missed
