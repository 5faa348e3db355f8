"""scripts/check_dist.py, on copies of the sources: it fails where a release would be wrong."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import wsrpc
from scripts import check_dist

ROOT = Path(__file__).parents[2]
VERSION = wsrpc.__version__


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """A copy of what the checks of the sources read, with a changelog of one version."""
    for name in (
        *("scripts/check_dist.py", "pyproject.toml", "wsrpc/__init__.py", "README.md"),
        *("browser/package.json", "browser/README.md", "docs/index.md"),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    for name in ("CONTRIBUTING.md", "SECURITY.md"):
        (tmp_path / name).write_text("# A page\n", "utf-8")
    write_changelog(tmp_path, f"## [{VERSION}] - 2026-01-31\n\n### Added\n\n- Something.\n")
    return tmp_path


def fill_in_placeholders(sources: Path) -> None:
    """As the owner of the project does before the first release."""
    text = (sources / "pyproject.toml").read_text("utf-8")
    (sources / "pyproject.toml").write_text(re.sub(r"  # placeholder: .*", "", text), "utf-8")
    for name in ("README.md", "docs/index.md"):
        text = (sources / name).read_text("utf-8")
        (sources / name).write_text(text.replace("not on PyPI yet", "on PyPI"), "utf-8")


def write_changelog(sources: Path, sections: str) -> None:
    (sources / "CHANGELOG.md").write_text(f"# Changelog\n\n{sections}", "utf-8")


def check(sources: Path, *options: str) -> tuple[int, str]:
    """The exit code, and what is said on stderr."""
    command = [sys.executable, "scripts/check_dist.py", "--sources", *options]
    done = subprocess.run(command, cwd=sources, capture_output=True, text=True)
    return done.returncode, done.stderr


def test_the_sources_of_this_version_agree() -> None:
    assert check(ROOT) == (0, "")


def test_a_release_whose_changelog_has_its_version_passes(sources: Path) -> None:
    fill_in_placeholders(sources)
    assert check(sources, "--release") == (0, "")


@pytest.mark.parametrize(
    ("sections", "problem"),
    [
        ("## [9.8.7] - 2026-01-31\n\n- Something.\n", f"newest version is 9.8.7, wsrpc.__version__ is {VERSION}"),
        (f"## [{VERSION}]\n\n- Something.\n", "not '[{version}] - YYYY-MM-DD'"),
        (f"## [{VERSION}] - 2026-02-30\n\n- Something.\n", "2026-02-30 is not a date"),
        (f"## [{VERSION}] - 2999-12-31\n\n- Something.\n", "2999-12-31 is in the future"),
        (f"## [{VERSION}] - 2026-01-31\n\n### Added\n", f"the section of {VERSION} has no entry"),
        ("## [Unreleased]\n\n- Something.\n", "no version has a section"),
    ],
)
def test_a_changelog_that_does_not_fit_the_version_fails(sources: Path, sections: str, problem: str) -> None:
    write_changelog(sources, sections)
    code, said = check(sources)
    assert code == 1
    assert said.startswith("changelog: ")
    assert problem.replace("{version}", VERSION) in said


def test_placeholders_fail_only_a_release(sources: Path) -> None:
    fill_in_placeholders(sources)
    text = (sources / "pyproject.toml").read_text("utf-8")
    (sources / "pyproject.toml").write_text(f"# placeholder: an address\n{text}", "utf-8")
    (sources / "README.md").write_text("It is not on PyPI yet.\n", "utf-8")
    assert check(sources) == (0, "")
    code, said = check(sources, "--release")
    placeholder, page = said.splitlines()
    assert code == 1 and placeholder.startswith("pyproject.toml:1: replace the placeholder")
    assert page.startswith("README.md: says 'not on PyPI yet'")


def test_unreleased_entries_fail_only_a_release(sources: Path) -> None:
    fill_in_placeholders(sources)
    changelog = (sources / "CHANGELOG.md").read_text("utf-8").partition("\n\n")[2]
    write_changelog(sources, f"## [Unreleased]\n\n- More.\n\n{changelog}")
    assert check(sources) == (0, "")
    assert check(sources, "--release") == (1, "changelog: move the entries of Unreleased to the version\n")


@pytest.mark.parametrize(
    ("file", "old", "new", "begins", "ends"),
    [
        ("wsrpc/__init__.py", f'"{VERSION}"', '"9.8.7"', "changelog: the newest", "wsrpc.__version__ is 9.8.7\n"),
        ("README.md", "# ", "TODO: write it\n# ", "README.md:", " says TODO\n"),
        (
            *("browser/package.json", "python-wsrpc/wsrpc", "ada/wsrpc"),
            *("browser/package.json: names ['ada/wsrpc'], but Repository", " is python-wsrpc/wsrpc\n"),
        ),
        ("pyproject.toml", '">=3.11"', '">=3.12"', "pyproject.toml: requires-python is >=3.12, the classifiers", "\n"),
    ],
)
def test_sources_that_do_not_agree_fail(sources: Path, file: str, old: str, new: str, begins: str, ends: str) -> None:
    text = (sources / file).read_text("utf-8")
    (sources / file).write_text(text.replace(old, new, 1), "utf-8")
    code, said = check(sources)
    assert code == 1 and said.startswith(begins) and said.endswith(ends), said


def test_the_readme_of_a_package_index_has_only_links_that_it_can_follow() -> None:
    hooks = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["hatch"]["metadata"]["hooks"]
    text = (ROOT / "README.md").read_text("utf-8")
    for each in hooks["fancy-pypi-readme"]["substitutions"]:
        text = re.sub(each["pattern"], each["replacement"], text)
    text = text.replace("$HFPR_VERSION", VERSION)
    problems = check_dist.Problems()
    check_dist.check_description(text, problems)
    assert not problems
    assert f"](https://raw.githubusercontent.com/python-wsrpc/wsrpc/v{VERSION}/docs/images/demo.svg)" in text


def test_a_readme_with_a_link_that_leads_nowhere_fails() -> None:
    problems = check_dist.Problems()
    top = f"{check_dist.project()['urls']['Repository']}/blob/v{VERSION}"
    check_dist.check_description(f"[a](docs/index.md) [b]({top}/docs/nowhere.md)", problems)
    assert problems == [
        "metadata: a package index cannot follow links of README.md such as ['docs/index.md']",
        "metadata: README.md links to docs/nowhere.md, which does not exist",
        "metadata: the description is not README.md with absolute links",
    ]


def _minor(version: str) -> int:
    return int(version.removeprefix("3."))


def test_the_workflows_test_every_supported_python_on_three_systems() -> None:
    workflow = (ROOT / ".github/workflows/tests.yml").read_text("utf-8")
    prefix = "Programming Language :: Python :: 3."
    supported = {
        f"3.{line.removeprefix(prefix)}" for line in check_dist.project()["classifiers"] if line.startswith(prefix)
    }
    matrix = re.search(r"^ +python: \[(.+)\]$", workflow, re.MULTILINE)
    assert matrix is not None and supported <= set(re.findall(r"[\d.]+", matrix[1]))
    both_ends = {min(supported, key=_minor), max(supported, key=_minor)}
    assert both_ends == set(re.findall(r"^ +(3\.\d+)$", workflow, re.MULTILINE)), "for `make test-pythons`"
    assert "system: [ubuntu-latest, macos-latest, windows-latest]" in workflow


def test_what_a_workflow_leaves_out_exists() -> None:
    """A renamed test would run on Windows again, and fail there."""
    workflow = (ROOT / ".github/workflows/tests.yml").read_text("utf-8")
    left_out = re.findall(r"--(?:ignore|deselect)=([\w/.]+)(?:::(\w+))?", workflow)
    assert left_out
    for path, name in left_out:
        assert name in (ROOT / path).read_text("utf-8"), f"{path} has no {name}"


@pytest.mark.parametrize("path", sorted((ROOT / ".github/workflows").glob("*.yml")), ids=lambda path: path.name)
def test_actions_are_pinned_to_commits(path: Path) -> None:
    used = re.findall(r"uses: (.+)$", path.read_text("utf-8"), re.MULTILINE)
    assert used
    for action in used:
        assert action.startswith("./") or re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v[\d.]+", action), action
