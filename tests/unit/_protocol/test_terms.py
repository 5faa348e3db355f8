"""`Settings.agreed`: peers that say the same about themselves share their terms."""

from __future__ import annotations

from wsrpc import Limits
from wsrpc._protocol.control import Announced
from wsrpc._protocol.settings import KINDS, make_settings


def test_remote_peers_that_say_the_same_share_their_terms() -> None:
    settings = make_settings(Limits(), None, None)
    terms = settings.agreed(Announced(message=1000), None, True)
    assert terms == settings.terms.agreed(Announced(message=1000), None, True)
    assert settings.agreed(Announced(message=1000), None, True) is terms
    assert settings.agreed(Announced(message=1000), None, False) == settings.terms.agreed(
        Announced(message=1000), None, False
    )
    assert settings.agreed(Announced(message=2000), None, True).largest == 2000


def test_remote_peers_cannot_fill_the_memory_with_terms() -> None:
    settings = make_settings(Limits(), None, None)
    for size in range(1000, 1000 + 3 * KINDS):
        assert settings.agreed(Announced(message=size), None, True).largest == size
    again = [settings.agreed(Announced(message=size), None, True) for size in range(1000, 1000 + 3 * KINDS)]
    shared = [settings.agreed(terms.announced, None, True) is terms for terms in again]
    assert shared == [True] * KINDS + [False] * 2 * KINDS
