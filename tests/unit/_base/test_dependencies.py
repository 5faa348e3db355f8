"""Libraries that are too old are refused when wsrpc is imported."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import wsrpc
from scripts.floors import floors
from wsrpc import __version__
from wsrpc._base.dependencies import check_dependencies

FLOORS = dict(floor.split("==") for floor in floors(extras=False))


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of installed packages before all others."""
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def install(folder: Path, name: str, metadata: str) -> None:
    info = folder / f"{name}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(metadata)


def test_the_import_names_both_versions(tmp_path: Path) -> None:
    """websockets 14.2 let the import pass, and then no connection opened."""
    install(tmp_path, "websockets-14.2", "Metadata-Version: 2.1\nName: websockets\nVersion: 14.2\n")
    for use in ("from wsrpc import Server", "import wsrpc; wsrpc.dial", "import wsrpc.blocking", "import wsrpc.types"):
        code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {use}"
        ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert ran.stderr.splitlines()[-1] == (
            f"ImportError: wsrpc {__version__} needs websockets {FLOORS['websockets']} or later, and 14.2 is "
            f"installed: pip install 'websockets>={FLOORS['websockets']}'"
        )


@pytest.mark.parametrize(("other", "file"), [("wsrpc", "wrapper.py"), ("wsrpc-tornado", "websocket/__init__.py")])
def test_another_distribution_with_the_same_package_is_named(other: str, file: str, tmp_path: Path) -> None:
    """pip has written both into one folder, ours last. To remove the other one then removes `wsrpc/__init__.py`."""
    package = tmp_path / "wsrpc"
    (package / file).parent.mkdir(parents=True)
    (package / file).touch()
    shutil.copy(wsrpc.__file__, package)
    words = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import wsrpc"]
    ran = subprocess.run(words, capture_output=True, text=True)
    assert ran.stderr.splitlines()[-1] == (
        f"ImportError: {other}, which is another project, is installed in the folder of python-wsrpc, {package}: "
        f"pip uninstall -y {other}, then pip install --force-reinstall --no-deps python-wsrpc"
    )


@pytest.mark.parametrize("name", FLOORS)
def test_each_dependency(installed: Path, name: str) -> None:
    install(installed, f"{name}-0.2.9", f"Name: {name}\nVersion: 0.2.9\n")
    with pytest.raises(ImportError, match=rf"needs {name} {FLOORS[name]} or later, and 0\.2\.9 is installed"):
        check_dependencies()


@pytest.mark.parametrize(
    "version", ["{}", "{}.0", "{}.1", "{}rc1", "{}.post1", "100", "100.dev1+local.2", "0+unknown", "1!0", "0.1.dev1"]
)
def test_the_lowest_version_and_all_above(installed: Path, version: str) -> None:
    for name, floor in FLOORS.items():
        install(installed, f"{name}-{version.format(floor)}", f"Name: {name}\nVersion: {version.format(floor)}\n")
    check_dependencies()
