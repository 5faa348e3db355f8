"""`Settings.agreed`: peers that say the same about themselves share their terms."""

from __future__ import annotations

from wsrpc import Limits
from wsrpc._core.wire.control import CREDIT, Announced
from wsrpc._core.wire.settings import KINDS, make_settings

FEATURES = frozenset({CREDIT})


def test_remote_peers_cannot_fill_the_memory_with_terms() -> None:
    settings = make_settings(Limits(), None)
    for size in range(1000, 1000 + 3 * KINDS):
        assert settings.agreed(Announced(message=size), None, FEATURES).largest == size
    again = [settings.agreed(Announced(message=size), None, FEATURES) for size in range(1000, 1000 + 3 * KINDS)]
    shared = [settings.agreed(terms.announced, None, FEATURES) is terms for terms in again]
    assert shared == [True] * KINDS + [False] * 2 * KINDS
