"""Every test with a proxy also checks that nothing is left of it."""

from __future__ import annotations

import pytest
from leftovers import nothing_left as nothing_left
from stores_in_use import patient as patient


@pytest.fixture(autouse=True)
def clean(nothing_left: None, patient: None) -> None:
    """Use both everywhere here."""
