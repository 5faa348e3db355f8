"""Which recordings are replayed: those in ``data``, or those in the folder that ``--vectors`` names.

``data/further`` has more sessions of channels and streams with the same library, in the same format. The rules alone
must suffice for them, as for those that ``--vectors`` names.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from vectors.conformance.scenario import Scenario, load, load_other_versions

HERE = Path(__file__).parent

ALL = pytest.StashKey[list[Scenario]]()
FURTHER = pytest.StashKey[list[Scenario]]()
OTHERS = pytest.StashKey[list[Scenario]]()


def pytest_configure(config: pytest.Config) -> None:
    given = config.getoption("--vectors", default=None)
    folder = HERE / "data" if given is None else Path(given)
    if not folder.is_dir():
        raise pytest.UsageError(f"--vectors: {folder} is not a folder")
    scenarios = load(folder)
    if not scenarios:
        raise pytest.UsageError(f"--vectors: no recording in {folder}")
    by_name = {scenario.name: scenario for scenario in scenarios}
    config.stash[ALL] = scenarios
    config.stash[FURTHER] = load(HERE / "data" / "further") if given is None else []
    config.stash[OTHERS] = [
        replace(other, tags=by_name[other.name].tags) for other in load_other_versions(folder) if other.name in by_name
    ]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    config = metafunc.config
    names = metafunc.fixturenames
    scenarios = config.stash[ALL] + config.stash[FURTHER]
    if "scenario" in names:
        _parametrize(metafunc, "scenario", scenarios)
    if "any_scenario" in names:
        _parametrize(metafunc, "any_scenario", scenarios + config.stash[OTHERS])


def _parametrize(metafunc: pytest.Metafunc, name: str, scenarios: list[Scenario]) -> None:
    metafunc.parametrize(name, scenarios, ids=[f"{scenario.source}:{scenario.name}" for scenario in scenarios])


@pytest.fixture
def own_recordings(request: pytest.FixtureRequest) -> bool:
    """Whether these are the recordings that come with the tests."""
    return request.config.getoption("--vectors", default=None) is None


@pytest.fixture
def recorded(request: pytest.FixtureRequest) -> list[Scenario]:
    """The scenarios that interop/DEVIATIONS.md speaks of."""
    return request.config.stash[ALL]


@pytest.fixture
def further(request: pytest.FixtureRequest) -> list[Scenario]:
    """Those in ``data/further``."""
    return request.config.stash[FURTHER]
