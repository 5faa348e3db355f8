"""Checks the sources and what ``make dist`` built, then installs the wheel in a fresh environment and uses it there.

Usage: python scripts/check_dist.py [--release] dist
       python scripts/check_dist.py [--release] --sources

With ``--sources`` only the checks run that need no build. With ``--release`` those run, too, that hold only for a
version that is about to be published.
"""

from __future__ import annotations

import argparse
import datetime
import email.message
import email.parser
import gzip
import json
import re
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import venv
import zipfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RUNTIME = {"msgspec", "tenacity", "websockets"}
NEEDS_EXTRA = "wsrpc: the command needs the extra cli: pip install 'python-wsrpc[cli]'\n"
ENTRY_POINTS = "[console_scripts]\nwsrpc = wsrpc.__main__:run\n"
SHIPPED = (
    "wsrpc",
    "adapters",
    "browser",
    "examples",
    "docs",
    "README.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "CHANGELOG.md",
)
LARGEST_MODULES = {  # bytes, minified and compressed: what a page loads at once that imports these modules
    ("client",): 13_300,
    ("client", "msgpack"): 16_000,
    ("http",): 2_400,  # which the client loads later
    ("upload",): 800,
    ("react",): 1_400,  # without React
}
ADDRESSED = ("pyproject.toml", "browser/package.json", "browser/README.md")
"""The files that say where the repository is. `Repository` in pyproject.toml is the one that counts."""
UNPUBLISHED = "not on PyPI yet"
"""What pages say until the first release."""
PACKED = (".css", ".html", ".js", ".lua", ".py", ".sql", ".ts", ".txt")
"""The suffixes of the files in the packages."""
UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX)\b")

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


def version() -> str:
    """What the package says of itself; pyproject.toml takes it from there, too."""
    found = re.search(r'^__version__ = "(.+)"$', (ROOT / "wsrpc/__init__.py").read_text("utf-8"), re.MULTILINE)
    if found is None:
        raise SystemExit("wsrpc/__init__.py has no __version__")
    return found[1]


def check_changelog(text: str, version: str, today: datetime.date, problems: Problems, *, release: bool) -> None:
    """The newest version of the changelog must be the package's, with a date and with entries.

    A section "Unreleased" may come before it. It must be empty if the version is about to be published.
    """
    headings = list(re.finditer(r"^## (.+)$", text, re.MULTILINE))
    ends = [*(heading.start() for heading in headings[1:]), len(text)]
    sections = [(found[1], text[found.end() : end]) for found, end in zip(headings, ends, strict=bool(headings))]
    if sections and sections[0][0] == "[Unreleased]":
        _, entries = sections.pop(0)
        problems.expect(not (release and entries.strip()), "changelog: move the entries of Unreleased to the version")
    if not sections:
        problems.append("changelog: no version has a section")
        return
    heading, entries = sections[0]
    found = re.fullmatch(r"\[(.+)\] - (\d{4}-\d{2}-\d{2})", heading)
    if found is None:
        problems.append(f"changelog: the newest section is {heading!r}, not '[{version}] - YYYY-MM-DD'")
        return
    problems.expect(found[1] == version, f"changelog: the newest version is {found[1]}, wsrpc.__version__ is {version}")
    problems.expect("\n- " in entries, f"changelog: the section of {found[1]} has no entry")
    try:
        date = datetime.date.fromisoformat(found[2])
    except ValueError:
        problems.append(f"changelog: {found[2]} is not a date")
    else:
        problems.expect(date <= today, f"changelog: {date} is in the future")


def project() -> dict[str, Any]:
    """The table ``project`` of pyproject.toml."""
    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return table


def check_addresses(problems: Problems, *, release: bool) -> None:
    """Every address of the repository must be the same. What stands in place of a true one must not be published."""
    repository = project()["urls"]["Repository"]
    name = re.fullmatch(r"https://github\.com/([\w.-]+/[\w.-]+)", repository)
    if name is None:
        problems.append(f"pyproject.toml: Repository is {repository!r}, not 'https://github.com/OWNER/NAME'")
        return
    for path in ADDRESSED:
        named = re.findall(
            r"https://(?:github|raw\.githubusercontent)\.com/([\w.-]+?/[\w-]+)", (ROOT / path).read_text("utf-8")
        )
        others = sorted(set(named) - {name[1]})
        problems.expect(not others, f"{path}: names {others}, but Repository in pyproject.toml is {name[1]}")
        problems.expect(name[1] in named, f"{path}: does not name the repository {name[1]}")
    if release:
        for number, line in enumerate((ROOT / "pyproject.toml").read_text("utf-8").splitlines(), 1):
            if "# placeholder: " in line:
                problems.append(f"pyproject.toml:{number}: replace the placeholder, and remove its comment: {line}")
        for path in ("README.md", "docs/index.md"):
            said = UNPUBLISHED in (ROOT / path).read_text("utf-8")
            problems.expect(not said, f"{path}: says {UNPUBLISHED!r}; write how to install wsrpc from there")


def check_description(text: str, problems: Problems) -> None:
    """A package index shows the README. Each of its links must lead to a file of this version in the repository."""
    repository = project()["urls"]["Repository"]
    raw = repository.replace("https://github.com/", "https://raw.githubusercontent.com/")
    tops = (f"{repository}/blob/v{version()}/", f"{raw}/v{version()}/")
    relative = re.findall(r"\]\((?!https?://|#)([^)\s]+)\)", text)
    problems.expect(not relative, f"metadata: a package index cannot follow links of README.md such as {relative[:3]}")
    for top in tops:
        for target in re.findall(rf"\]\({re.escape(top)}([^)\s#]+)", text):
            problems.expect((ROOT / target).exists(), f"metadata: README.md links to {target}, which does not exist")
    readme = (ROOT / "README.md").read_text("utf-8").strip()
    same = text.replace(tops[0], "").replace(tops[1], "").strip() == readme
    problems.expect(bool(readme) and same, "metadata: the description is not README.md with absolute links")


def check_classifiers(problems: Problems) -> None:
    """Each supported Python has a classifier. (The build itself refuses unknown classifiers.)"""
    prefix = "Programming Language :: Python :: 3."
    minors = [int(line.removeprefix(prefix)) for line in project()["classifiers"] if line.startswith(prefix)]
    oldest = int(project()["requires-python"].removeprefix(">=3."))
    problems.expect(
        bool(minors) and minors == list(range(oldest, oldest + len(minors))),
        f"pyproject.toml: requires-python is {project()['requires-python']}, the classifiers name {minors}",
    )


def check_finished(problems: Problems) -> None:
    """Nothing that is shipped may be marked as unfinished."""
    for name in SHIPPED:
        start = ROOT / name
        for path in sorted(start.rglob("*")) if start.is_dir() else [start]:
            if path.suffix in (".py", ".md", ".html", ".mjs", ".ts") and "node_modules" not in path.parts:
                for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
                    if found := UNFINISHED.search(line):
                        problems.append(f"{path.relative_to(ROOT)}:{number} says {found[0]}")


def check_sources(problems: Problems, *, release: bool) -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    check_changelog(changelog, version(), datetime.datetime.now(datetime.UTC).date(), problems, release=release)
    check_classifiers(problems)
    check_addresses(problems, release=release)
    check_finished(problems)


def check_wheel(wheel: Path, problems: Problems) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        info = next(name for name in names if name.endswith(".dist-info/METADATA"))
        metadata = email.parser.BytesParser().parsebytes(archive.read(info))
        entry_points = archive.read(info.replace("METADATA", "entry_points.txt")).decode("utf-8")
    tops = {name.partition("/")[0] for name in names}
    strangers = tops - {"wsrpc", "wsrpc_adapters", info.partition("/")[0]}
    problems.expect(not strangers, f"wheel: holds more than the packages and the command: {sorted(strangers)}")
    for package, folder in (("wsrpc", ROOT / "wsrpc"), ("wsrpc_adapters", ROOT / "adapters/wsrpc_adapters")):
        files = (path for path in folder.rglob("*") if path.suffix in PACKED)
        expected = {f"{package}/{path.relative_to(folder).as_posix()}" for path in files} | {f"{package}/py.typed"}
        packed = {name for name in names if name.startswith(f"{package}/")}
        problems.expect(expected <= packed, f"wheel: lacks {sorted(expected - packed)}")
        problems.expect(packed <= expected, f"wheel: must not hold {sorted(packed - expected)[:5]}")
    licensed = any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    problems.expect(licensed, "wheel: lacks the LICENSE file")
    problems.expect(entry_points == ENTRY_POINTS, f"wheel: its entry points are {entry_points!r}")
    check_metadata(metadata, problems)


def check_page_modules(problems: Problems) -> None:
    """The package for npm must be built, of the same version, and small; so must what it says that it holds."""
    folder = ROOT / "browser"
    package = json.loads((folder / "package.json").read_text("utf-8"))
    problems.expect(package["version"] == version(), f"browser/package.json: the version is {package['version']}")
    with tempfile.TemporaryDirectory(prefix="wsrpc-npm-") as temporary:
        pack = ["npm", "pack", "--silent", "--pack-destination", temporary]
        packed = subprocess.run(pack, cwd=folder, capture_output=True, text=True)
        if packed.returncode:
            problems.append(f"npm pack:\n{packed.stdout}{packed.stderr}")
            return
        with tarfile.open(only_file(Path(temporary), "*.tgz")) as archive:
            names = {name.removeprefix("package/") for name in archive.getnames()}
        problems.expect("LICENSE" in names, "browser: the package lacks the LICENSE file")
        exported = {path.removeprefix("./") for entry in package["exports"].values() for path in entry.values()}
        problems.expect(exported <= names, f"browser: the package lacks {sorted(exported - names)}")
        for modules, largest in LARGEST_MODULES.items():
            page = Path(temporary) / "page.ts"
            page.write_text("".join(f'export * from "{folder}/src/{name}.js"\n' for name in modules), "utf-8")
            options = [
                "--bundle",
                "--minify",
                "--format=esm",
                "--target=es2022",
                "--external:./http.js",
                "--external:react",
            ]
            bundle = ["npx", "esbuild", str(page), *options]
            bundled = subprocess.run(bundle, cwd=folder, capture_output=True, check=True)
            size = len(gzip.compress(bundled.stdout))
            print(f"A page that imports {' and '.join(modules)} loads {size:,} bytes.")
            problems.expect(size <= largest, f"browser: {', '.join(modules)} have {size:,} bytes, over {largest:,}")


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
    payload = metadata.get_payload(decode=True)
    text = payload.decode("utf-8") if isinstance(payload, bytes) else ""
    check_description(text, problems)
    urls = {f"{name}, {url}" for name, url in project()["urls"].items()}
    found = set(metadata.get_all("Project-URL", []))
    problems.expect(found == urls, f"metadata: the project URLs are {sorted(found)}, not {sorted(urls)}")


def check_rendering(files: list[Path], problems: Problems) -> None:
    """A package index must be able to read the metadata and to render the description."""
    command = [sys.executable, "-m", "twine", "--no-color", "check", "--strict", *map(str, files)]
    checked = subprocess.run(command, capture_output=True, text=True)
    problems.expect(checked.returncode == 0, f"twine check:\n{checked.stdout}{checked.stderr}")


def check_sdist(sdist: Path, problems: Problems) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    files = ["LICENSE", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "Makefile", "pyproject.toml"]
    files += ["PKG-INFO", "mkdocs.yml"]
    files += ["wsrpc/py.typed", "adapters/wsrpc_adapters/py.typed"]
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
        install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        command = [str(Path(folder) / "bin" / "wsrpc"), "--version"]
        subprocess.run([*install, str(wheel)], check=True)
        used = subprocess.run([python, "-I", "-W", "error", "-c", TRY_OUT], cwd=folder, capture_output=True, text=True)
        without = subprocess.run(command, capture_output=True, text=True)
        subprocess.run([*install, f"{wheel}[cli]"], check=True)
        with_extra = subprocess.run(command, capture_output=True, text=True)
    problems.expect(used.returncode == 0, f"the installed wheel does not work:\n{used.stderr}")
    version = wheel.name.split("-")[1]
    problems.expect(
        without.returncode == 2 and without.stderr == NEEDS_EXTRA,
        f"without its extra, the command `wsrpc` must say what it needs; it says:\n{without.stderr}",
    )
    problems.expect(
        with_extra.stdout == f"wsrpc {version}\n", f"the command `wsrpc` does not work:\n{with_extra.stderr}"
    )
    if used.returncode == 0:
        problems.expect(
            used.stdout.strip() == version,
            f"the wheel is version {version}, wsrpc.__version__ is {used.stdout.strip()}",
        )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python scripts/check_dist.py")
    parser.add_argument("--release", action="store_true", help="check also what holds only before publishing")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--sources", action="store_true", help="check only what needs no build")
    what.add_argument("folder", type=Path, nargs="?", help="where the wheel and the sdist are")
    options = parser.parse_args()
    problems = Problems()
    check_sources(problems, release=options.release)
    done = f"The sources of version {version()} agree."
    if not options.sources:
        folder = options.folder.resolve()
        wheel, sdist = only_file(folder, "*.whl"), only_file(folder, "*.tar.gz")
        check_wheel(wheel, problems)
        check_page_modules(problems)
        check_sdist(sdist, problems)
        check_rendering([wheel, sdist], problems)
        try_out(wheel, problems)
        done = f"{wheel.name} and {sdist.name} hold what they should; the wheel was installed, and it answers."
    if problems:
        raise SystemExit("\n".join(problems))
    print(done)


if __name__ == "__main__":
    main()
