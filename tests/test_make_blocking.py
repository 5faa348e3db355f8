"""The blocking classes are what `scripts/make_blocking.py` makes of the asynchronous ones."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import wsrpc
import wsrpc.blocking

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "scripts" / "make_blocking.py"

NAMES = [name for name in wsrpc.blocking.__all__ if name != "Stream"]

LEFT_OUT = {
    "Client": {"include", "bind", "use"},
    "Channel": {"use"},
    "AnonymousChannel": {"use"},
    "Peer": {"transport", "bind", "wait_opened", "server", "rooms", "home_room", "address", "use"},
}
"""What a blocking class does not have, because it needs an event loop, or is for a server's peers."""

OTHER_PARAMETERS = {"on": {"thread", "timeout"}, "once": {"thread", "timeout"}, "__init__": {"transport"}}


def test_the_module_is_what_the_script_makes() -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"python scripts/make_blocking.py\n{done.stderr}"


def public(cls: type[Any]) -> set[str]:
    return {name for name in dir(cls) if not name.startswith("_")}


@pytest.mark.parametrize("name", NAMES)
def test_a_blocking_class_has_what_the_asynchronous_one_has(name: str) -> None:
    instance_only = {"id", "state", "principal", "ignored"} if name in ("Peer", "AnonymousChannel") else set()
    asynchronous, blocking = getattr(wsrpc, name), getattr(wsrpc.blocking, name)
    assert public(blocking) - instance_only == public(asynchronous) - LEFT_OUT.get(name, set()) - instance_only


def methods() -> Iterator[tuple[str, str]]:
    for name in NAMES:
        for method in sorted(public(getattr(wsrpc.blocking, name)) | {"__init__"}):
            asynchronous = getattr(getattr(wsrpc, name), method, None)
            if inspect.isfunction(asynchronous) and (method != "__init__" or name in ("Client", "ClusterClient")):
                yield name, method


@pytest.mark.parametrize(("name", "method"), [*methods()])
def test_a_blocking_method_takes_the_same_arguments(name: str, method: str) -> None:
    asynchronous = inspect.signature(getattr(getattr(wsrpc, name), method)).parameters
    blocking = inspect.signature(getattr(getattr(wsrpc.blocking, name), method)).parameters
    left_out = OTHER_PARAMETERS.get(method, set())
    assert [*blocking] == [each for each in asynchronous if each not in left_out]
    for each, parameter in blocking.items():
        assert parameter.kind is asynchronous[each].kind
        if type(parameter.default) is not object:
            assert parameter.default == asynchronous[each].default


def test_a_blocking_method_is_documented() -> None:
    for name, method in methods():
        asynchronous = inspect.getdoc(getattr(getattr(wsrpc, name), method))
        blocking = inspect.getdoc(getattr(getattr(wsrpc.blocking, name), method))
        assert bool(asynchronous) == bool(blocking), f"{name}.{method}"
