"""Which recordings are replayed: those in ``data``, or those in the folder that ``--vectors`` names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from conformance.scenario import Scenario, load, load_other_versions, needs_anonymous_channels

HERE = Path(__file__).parent

ALL = pytest.StashKey[list[Scenario]]()
PLAYABLE = pytest.StashKey[list[Scenario]]()
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
    config.stash[PLAYABLE] = [scenario for scenario in scenarios if not needs_anonymous_channels(scenario, by_name)]
    config.stash[OTHERS] = [
        replace(other, tags=by_name[other.name].tags) for other in load_other_versions(folder) if other.name in by_name
    ]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    config = metafunc.config
    names = metafunc.fixturenames
    if "scenario" in names:
        _parametrize(metafunc, "scenario", config.stash[PLAYABLE])
    if "any_scenario" in names:
        _parametrize(metafunc, "any_scenario", config.stash[ALL] + config.stash[OTHERS])
    if "halves" in names:
        playable = {scenario.name: scenario for scenario in config.stash[PLAYABLE]}
        pairs = [
            (scenario, playable[scenario.counterpart])
            for scenario in playable.values()
            if scenario.counterpart in playable and scenario.name < scenario.counterpart
        ]
        metafunc.parametrize("halves", pairs, ids=[left.name.rpartition("/")[0] for left, _ in pairs])


def _parametrize(metafunc: pytest.Metafunc, name: str, scenarios: list[Scenario]) -> None:
    metafunc.parametrize(name, scenarios, ids=[f"{scenario.source}:{scenario.name}" for scenario in scenarios])


@pytest.fixture
def own_recordings(request: pytest.FixtureRequest) -> bool:
    """Whether these are the recordings that come with the tests."""
    return request.config.getoption("--vectors", default=None) is None


@pytest.fixture
def playable(request: pytest.FixtureRequest) -> list[Scenario]:
    """The scenarios that are replayed."""
    return request.config.stash[PLAYABLE]
