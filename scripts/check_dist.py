"""Checks what ``make dist`` built, then installs the wheel in a fresh environment and uses it there.

Usage: python scripts/check_dist.py dist
"""

from __future__ import annotations

import email.message
import email.parser
import re
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
RUNTIME = {"msgspec", "tenacity", "websockets"}

# Runs in the fresh environment, away from the checkout, so that only the installed wheel can be imported.
TRY_OUT = """
import asyncio
import wsrpc, wsrpc_adapters
from wsrpc import Client, Server

async def main():
    server = Server()

    @server.on("add")
    def add(a: int, b: int) -> int:
        return a + b

    async with server.listen("127.0.0.1", 0) as listener:
        async with Client(listener.url) as client:
            answer = await client.request("add", 1, 2)
            assert answer == 3, answer

asyncio.run(asyncio.wait_for(main(), 30))
print(wsrpc.__version__)
"""


class Problems(list[str]):
    """What is wrong, gathered so that one run names all of it."""

    def expect(self, holds: bool, otherwise: str) -> None:
        if not holds:
            self.append(otherwise)


def only_file(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise SystemExit(f"expected exactly one {pattern} in {folder}, found {[path.name for path in found]}")
    return found[0]


def check_wheel(wheel: Path, problems: Problems) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        info = next(name for name in names if name.endswith(".dist-info/METADATA"))
        metadata = email.parser.BytesParser().parsebytes(archive.read(info))
    tops = {name.partition("/")[0] for name in names}
    strangers = tops - {"wsrpc", "wsrpc_adapters", "wsrpc_command.py", info.partition("/")[0]}
    problems.expect(not strangers, f"wheel: holds more than the packages and the command: {sorted(strangers)}")
    for package, folder in (("wsrpc", ROOT / "wsrpc"), ("wsrpc_adapters", ROOT / "adapters/wsrpc_adapters")):
        sources = [f"{package}/{path.relative_to(folder).as_posix()}" for path in folder.rglob("*.py")]
        missing = sorted({*sources, f"{package}/py.typed"} - set(names))
        problems.expect(not missing, f"wheel: lacks {missing}")
    forbidden = re.compile(r"(^|/)(tests|interop|node_modules|__pycache__)/")
    unwanted = [name for name in names if forbidden.search(name)]
    problems.expect(not unwanted, f"wheel: must not hold {unwanted[:5]}")
    licensed = any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    problems.expect(licensed, "wheel: lacks the LICENSE file")
    check_metadata(metadata, problems)


def version() -> str:
    """What the package says of itself; pyproject.toml takes it from there, too."""
    found = re.search(r'^__version__ = "(.+)"$', (ROOT / "wsrpc/__init__.py").read_text("utf-8"), re.MULTILINE)
    if found is None:
        raise SystemExit("wsrpc/__init__.py has no __version__")
    return found[1]


def check_metadata(metadata: email.message.Message, problems: Problems) -> None:
    expected = {
        "Name": "python-wsrpc",
        "Version": version(),
        "Requires-Python": ">=3.11",
        "License-Expression": "MIT",
        "Description-Content-Type": "text/markdown",
    }
    for field, value in expected.items():
        problems.expect(metadata[field] == value, f"metadata: {field} is {metadata[field]!r}, not {value!r}")
    required = {
        re.split(r"[^A-Za-z0-9_.-]", line, maxsplit=1)[0].lower()
        for line in metadata.get_all("Requires-Dist", [])
        if "extra ==" not in line
    }
    problems.expect(required == RUNTIME, f"metadata: needs {sorted(required)}, not {sorted(RUNTIME)}")
    readme = (ROOT / "README.md").read_text("utf-8").strip()
    payload = metadata.get_payload(decode=True)
    text = payload.decode("utf-8") if isinstance(payload, bytes) else ""
    problems.expect(bool(readme) and text.strip() == readme, "metadata: the description is not README.md")


def check_sdist(sdist: Path, problems: Problems) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    files = ["LICENSE", "README.md", "CHANGELOG.md", "Makefile", "pyproject.toml", "PKG-INFO"]
    files += ["wsrpc/py.typed", "wsrpc_command.py", "adapters/wsrpc_adapters/py.typed"]
    files += [path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("*.py")]
    missing = sorted(set(files) - names)
    problems.expect(not missing, f"sdist: lacks {missing}")
    unwanted = sorted(name for name in names if re.search(r"(^|/)(node_modules|__pycache__|\.venv)(/|$)", name))
    problems.expect(not unwanted, f"sdist: must not hold {unwanted[:5]}")


def try_out(wheel: Path, problems: Problems) -> None:
    """Installs the wheel as a user would and makes one call through it."""
    with tempfile.TemporaryDirectory(prefix="wsrpc-dist-") as folder:
        venv.create(folder, with_pip=True, symlinks=True)
        python = Path(folder) / "bin" / "python"
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wheel], check=True)
        command = subprocess.run([Path(folder) / "bin" / "wsrpc", "--version"], capture_output=True, text=True)
        used = subprocess.run([python, "-I", "-W", "error", "-c", TRY_OUT], cwd=folder, capture_output=True, text=True)
    problems.expect(used.returncode == 0, f"the installed wheel does not work:\n{used.stderr}")
    version = wheel.name.split("-")[1]
    problems.expect(command.stdout == f"wsrpc {version}\n", f"the command `wsrpc` does not work:\n{command.stderr}")
    if used.returncode == 0:
        problems.expect(
            used.stdout.strip() == version,
            f"the wheel is version {version}, wsrpc.__version__ is {used.stdout.strip()}",
        )


def main() -> None:
    folder = Path(sys.argv[1]).resolve()
    wheel, sdist = only_file(folder, "*.whl"), only_file(folder, "*.tar.gz")
    problems = Problems()
    check_wheel(wheel, problems)
    check_sdist(sdist, problems)
    try_out(wheel, problems)
    if problems:
        raise SystemExit("\n".join(problems))
    print(f"{wheel.name} and {sdist.name} hold what they should; the wheel was installed, and it answers.")


if __name__ == "__main__":
    main()
