from __future__ import annotations

from collections.abc import Generator

import pytest
from in_a_thread import no_thread_left


@pytest.fixture(autouse=True)
def nothing_left() -> Generator[None]:
    """No thread is left of a test, whatever it does to its clients."""
    with no_thread_left():
        yield
