"""The commands of the guides: each is run by a test, and what they install exists."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import pytest
from pages import HOW_TO, commands, python_blocks
from programs import ENVIRONMENT, PYTHON, ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]

# The tests that run the commands, or look at them, each with pages and programs.
KNOWN = {
    "test_what_is_installed_exists": (
        "ai-clients npm, browser pip, frameworks pip, migrate-ws-wrapper npm, typescript npm"
    ),
    "test_the_command_writes_and_checks": "python-client wsrpc, typescript wsrpc",
    "test_an_api_is_handed_to_another_team": "json-schema wsrpc, json-schema openapi-python-client",
    "tests/docs/test_http_page.py": "http uvicorn, http curl",
    "tests/docs/test_framework_pages.py": "frameworks uvicorn, frameworks wsrpc, tls openssl",
    "tests/adapters/test_prometheus.py": "observability uvicorn",
    "tests/docs/test_migration_pages.py": "migrate-ws-wrapper python, migrate-ws-wrapper node",
    "tests/docs/test_other_libraries.py": "migrate-socketio flask, migrate-socketio python",
    "tests/browser": "browser python, ai-clients npx, ai-clients wsrpc",
    "tests/command/test_conformance.py": "conformance python",
    "interop/test_typescript_page.py": "typescript npx, typescript python, typescript node",
}
PAGES = sorted(path.stem for path in HOW_TO.glob("*.md"))


def test_every_command_is_known() -> None:
    shown = {f"{page} {command.split()[0]}" for page in PAGES for command in commands(page)}
    assert shown == {each for known in KNOWN.values() for each in known.split(", ")}


CLIENT = json.loads((ROOT / "browser" / "package.json").read_text("utf-8"))
PACKAGES = {
    *("fastapi", "starlette", "ws", "ws-wrapper", "github:bminer/ws-wrapper#v4.3.1", "typescript", "@types/node"),
    *("@types/ws", "{name}-{version}.tgz".format(**CLIENT), "@ai-sdk/react", "react", "react-dom", "esbuild"),
}


@pytest.mark.parametrize("page", PAGES)
def test_what_is_installed_exists(page: str) -> None:
    for program, *arguments in map(shlex.split, commands(page)):
        if program in ("pip", "npm") and arguments[0] == "install":
            if "--prefix" in arguments:
                assert (ROOT / arguments[arguments.index("--prefix") + 1] / "package.json").exists()
                continue
            for name in arguments[1:]:
                extra = re.fullmatch(r"\.\[(\w+)\]", name)
                assert name in PACKAGES or name == "--save-dev" or (extra and extra[1] in EXTRAS), name
        elif program == "python" and "/" in arguments[0]:
            assert (ROOT / arguments[0]).exists()


def test_the_table_of_extras_has_each_extra_and_what_it_installs() -> None:
    section = (ROOT / "docs" / "index.md").read_text("utf-8").partition("\n## Install\n")[2].partition("\n## ")[0]
    shown = dict(re.findall(r"^\| `([\w-]+)` \| ([^|]+) \|", section, re.MULTILINE))
    installed = {name: ", ".join(re.split(r"[>=]", each)[0] for each in needed) for name, needed in EXTRAS.items()}
    no_library = "none: install the framework and an ASGI server yourself"
    assert shown == {**installed, "asgi": no_library, "all": "all libraries in this table"}
    used = set(re.findall(r"'\.\[([\w,-]+)\]'", section))
    assert used and set(",".join(used).split(",")) <= set(EXTRAS)


def test_every_install_command_installs_a_clone() -> None:
    for page in (ROOT / "docs").rglob("*.md"):
        text = page.read_text("utf-8")
        assert "python-wsrpc[" not in text, page
        if "pip install" in text and page.name != "index.md":
            assert "index.md#install)" in text, page


@pytest.mark.parametrize("page", ["python-client", "typescript"])
def test_the_command_writes_and_checks(page: str, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(f'{python_blocks(page)[0]}\nserver.run("127.0.0.1", 8080)\n', "utf-8")

    def status_of(arguments: list[str]) -> int:
        return subprocess.run([*PYTHON, "-m", "wsrpc", *arguments], cwd=tmp_path, env=ENVIRONMENT).returncode

    shown = [shlex.split(command)[1:] for command in commands(page, "wsrpc")]
    assert [status_of(arguments) for arguments in shown] == [0 for _ in shown]
    [written] = [arguments[arguments.index("-o") + 1] for arguments in shown if "--check" not in arguments]
    (tmp_path / written).write_text("something else", "utf-8")
    assert status_of([*shown[0], "--check"]) == 1


def test_an_api_is_handed_to_another_team(tmp_path: Path) -> None:
    served = 'from wsrpc_adapters.asgi import routes\napi = routes(server, calls=["brew"])\n'
    (tmp_path / "app.py").write_text(f"{python_blocks('json-schema')[0]}\n{served}", "utf-8")
    for command in commands("json-schema", "wsrpc") + commands("json-schema", "openapi-python-client"):
        program, *arguments = shlex.split(command)
        words = [*PYTHON, "-m", program] if program == "wsrpc" else [PYTHON[0], "-m", program.replace("-", "_")]
        subprocess.run([*words, *arguments], cwd=tmp_path, env=ENVIRONMENT, check=True)
    assert (tmp_path / "shop-client" / "shop_client" / "api" / "calls" / "call_brew.py").exists()
