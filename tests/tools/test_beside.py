"""scripts/check_beside.py, with packages in a folder in place of the package index."""

from __future__ import annotations

from pathlib import Path
from zipfile import ZipFile

import pytest

from scripts.check_beside import check


def wheel(folder: Path, name: str, version: str, *requires: str) -> str:
    path, info = folder / f"{name}-{version}-py3-none-any.whl", f"{name}-{version}.dist-info"
    required = "".join(f"Requires-Dist: {requirement}\n" for requirement in requires)
    with ZipFile(path, "w") as archive:
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{required}")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return str(path)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    for version in ("15.0", "16.0", "17.0"):
        wheel(tmp_path, "sockets", version)
    wheel(tmp_path, "chat", "1.0")
    wheel(tmp_path, "chat", "3.0", "sockets<16")
    wheel(tmp_path, "voice_kit", "1.0", "sockets>=16")
    return tmp_path


def test_an_sdk_that_gets_older_beside_wsrpc(index: Path) -> None:
    """pip chose an openai two years old, because wsrpc wanted a newer websockets than its newest version allows."""
    [problem] = check(["chat", "voice-kit"], wheel(index, "python_wsrpc", "0.2.0", "sockets>=17"))
    first, *conflict = problem.splitlines()
    assert first == "chat: 3.0 alone, 1.0 beside wsrpc. In conflict:"
    assert [line.strip() for line in conflict] == [
        "python-wsrpc 0.2.0 depends on sockets>=17",
        "chat 3.0 depends on sockets<16",
    ]


def test_sdks_that_fit_wsrpc_but_not_each_other(index: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert check(["chat", "voice-kit"], wheel(index, "python_wsrpc", "0.2.0", "sockets>=15")) == []
    assert capfd.readouterr().out.splitlines() == ["chat 3.0: as without wsrpc", "voice-kit 1.0: as without wsrpc"]
