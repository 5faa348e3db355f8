"""Every test of a transport also checks that nothing is left of it."""

from __future__ import annotations

import pytest
from flavours import FLAVOURS
from leftovers import nothing_left as nothing_left


@pytest.fixture(autouse=True)
def clean(nothing_left: None) -> None:
    """Use `nothing_left` everywhere here."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what a flavour of the transport contract is exempt from."""
    kept, left_out = [], []
    for item in items:
        flavour = getattr(item, "callspec", None) and item.callspec.params.get("flavour")  # type: ignore[attr-defined]
        exempt = flavour.exempt if flavour in FLAVOURS else ()
        (left_out if getattr(item, "originalname", None) in exempt else kept).append(item)
    items[:] = kept
    config.hook.pytest_deselected(items=left_out)
