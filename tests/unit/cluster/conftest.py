from __future__ import annotations

import pytest
from leftovers import nothing_left as nothing_left


@pytest.fixture(autouse=True)
def clean(nothing_left: None) -> None:
    """Use `nothing_left` everywhere here."""
