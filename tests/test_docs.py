"""Runs what README.md and docs/ show, and checks that the API reference has every public name.

A block that begins with ``# name.py`` or ``// name.mjs`` is a whole program and runs as a process; the port it names
is replaced by a free one. Every other Python block is run here, those of one page one after another
in one namespace, with ``await`` allowed at the top, as in ``python -m asyncio``; then the page's ``test_…`` functions.
"""

from __future__ import annotations

import ast
import asyncio
import importlib
import inspect
import re
import sys
import types
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from programs import PYTHON, listening, printed_by, start

import wsrpc
from interop.installed import install
from interop.node import available_libraries, find_node
from scripts import page_tables
from scripts.docs_names import by_module

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PROTOCOL = ROOT / "docs" / "reference" / "protocol.md"
BLOCKING = ROOT / "docs" / "how-to" / "blocking.md"
MIGRATING = ROOT / "docs" / "how-to" / "migrate-ws-wrapper.md"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]
PORT = "8080"
LIBRARIES = [name for name, _ in available_libraries() if name != "ws-server-wrapper"]
WITH_STREAMS = ["plain-4", *(name for name in LIBRARIES if name == "ws-wrapper-4")]

# Run a program as its user would, with the log on, where `Server.run` says which port it got.
WITH_LOG = (
    "import logging, runpy, sys; logging.basicConfig(level=logging.INFO); "
    "runpy.run_path(sys.argv[1], run_name='__main__')"
)


class Block(NamedTuple):
    language: str
    text: str
    line: int  # of its first line

    @property
    def program(self) -> str | None:
        """The file's name, if the block is a whole program."""
        found = re.match(r"(?:#|//) ([\w-]+\.(?:py|mjs))\b", self.text)
        return found[1] if found else None


def blocks_of(page: Path) -> Iterator[Block]:
    text = page.read_text("utf-8")
    for found in re.finditer(r"^```(\w*)(?: [^\n]*)?\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        yield Block(found[1], found[2], text.count("\n", 0, found.start(2)) + 1)


def program_of(page: Path, name: str) -> str:
    [block] = [block for block in blocks_of(page) if block.program == name]
    return block.text


def page_name(page: Path) -> str:
    return str(page.relative_to(ROOT))


# ---------------------------------------------------------------- blocks that run here


class MustRaise(ast.NodeTransformer):
    """Where a page shows an exception being caught, not raising any is wrong."""

    def visit_Try(self, node: ast.Try) -> ast.Try:
        self.generic_visit(node)
        if node.handlers and not node.orelse:
            [otherwise] = ast.parse("raise AssertionError('nothing was raised')").body
            node.orelse = [ast.copy_location(otherwise, node)]
        return node


@contextmanager
def namespace(page: Path) -> Iterator[dict[str, object]]:
    """A module of its own, which dataclasses and their like look up by its name."""
    module = types.ModuleType(f"page_{page.stem.lower()}")
    sys.modules[module.__name__] = module
    try:
        yield module.__dict__
    finally:
        del sys.modules[module.__name__]


CERTIFICATES = ROOT / "tests" / "certificates"
"""Made by the commands of the guides to TLS and client certificates, and valid for a hundred years.

``renewed.pem`` is another one for the server.
"""


def code_of(page: Path, block: Block, flags: int = 0) -> types.CodeType:
    # Empty lines before it, so that a traceback shows the line of the page.
    source = "\n" * (block.line - 1) + block.text
    tree = compile(source, str(page), "exec", flags=flags | ast.PyCF_ONLY_AST, dont_inherit=True)
    tree = ast.fix_missing_locations(MustRaise().visit(tree))
    code: types.CodeType = compile(tree, str(page), "exec", flags=flags, dont_inherit=True)
    return code


# test_todo_example.py follows the pages of the tutorial, whose files import each other, test_see_what_happens.py the
# guide to which its programs belong, and test_ai_chat_page.py finds the code of its guide in the example.
ELSEWHERE = {"ai-chat", "blocking", "see-what-happens"}
# The pages of the API show signatures.
PAGES_RUN_HERE = [page for page in PAGES if page.stem not in ELSEWHERE and page.parent.name not in ("tutorial", "api")]


@pytest.mark.filterwarnings("ignore:Using `httpx` with `starlette.testclient`")
@pytest.mark.parametrize("page", PAGES_RUN_HERE, ids=page_name)
async def test_the_python_blocks_of_a_page_run(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if page.stem == "tls":
        monkeypatch.chdir(CERTIFICATES)
    with namespace(page) as names:
        for block in blocks_of(page):
            if block.language != "python" or block.program is not None:
                continue
            result = eval(code_of(page, block, ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), names)
            if inspect.iscoroutine(result):
                await result
        for name, value in list(names.items()):
            if name.startswith("test_") and inspect.isfunction(value):
                result = value()
                if inspect.iscoroutine(result):
                    await result


def test_every_block_says_what_it_is() -> None:
    """A block in a language that no test looks at would rot unseen.

    (TypeScript is compiled by interop/, HTML shown by tests/browser, and JSON used by tests/docs/test_metrics_page.py.)
    """
    known = {"python", "js", "go", "html", "text", "ts", "console", "mermaid", "diff", "json"}
    assert {block.language for page in PAGES for block in blocks_of(page)} == known


def test_what_a_diff_changes_is_in_the_code() -> None:
    """A line `` # wsrpc/file.py`` names the file. A line that stays may be shortened after its first ``(``."""
    for block in (block for page in PAGES for block in blocks_of(page) if block.language == "diff"):
        code = ""
        for line in block.text.splitlines():
            kind, text = line[0], line[1:]
            if named := re.match(r"# (\S+\.py)\b", text):
                code = (ROOT / named[1]).read_text()
            elif kind != "+":
                shown = text if kind == "-" else "".join(text.partition("(")[:2])
                assert shown in code, line


# ---------------------------------------------------------------- whole programs


@asynccontextmanager
async def running_server(folder: Path, page: Path = README, name: str = "server.py") -> AsyncGenerator[str]:
    """A page's server as a process, its URL; it must end well when interrupted."""
    text = program_of(page, name)
    assert PORT in text
    (folder / name).write_text(text.replace(PORT, "0"), "utf-8")
    async with listening(await start(*PYTHON, "-c", WITH_LOG, name, cwd=folder)) as url:
        yield url.rstrip("/")


async def output_of(*command: str, folder: Path) -> str:
    return await printed_by(await start(*command, cwd=folder))


async def check_program(page: Path, name: str, url: str, folder: Path, *command: str) -> None:
    """A page's program prints what its comments say."""
    program = program_of(page, name)
    assert f"ws://127.0.0.1:{PORT}" in program
    (folder / name).write_text(program.replace(f"ws://127.0.0.1:{PORT}", url), "utf-8")
    printed = await output_of(*command, name, folder=folder)
    assert printed.splitlines() == promised_by(program)


def promised_by(program: str) -> list[str]:
    """What the comments beside printing lines say that they print."""
    printing = re.findall(r"(?:print|console\.log)\(.*\)\s+(?:#|//) (.+)", program)
    assert printing
    return [comment.partition(", an ")[0] for comment in printing]


async def test_the_first_programs_run_as_shown(tmp_path: Path) -> None:
    for name, logged in (("drop.py", "next attempt in"), ("once.py", "")):
        program = program_of(README, name)
        (tmp_path / name).write_text(program, "utf-8")
        out, err = await (await start(*PYTHON, name, cwd=tmp_path)).communicate()
        assert out.decode().splitlines() == promised_by(program)
        assert logged in err.decode()
    async with running_server(tmp_path) as url:
        await check_program(README, "client.py", url, tmp_path, *PYTHON)


async def test_the_page_without_an_event_loop_runs_in_a_thread_without_one(tmp_path: Path) -> None:
    def run(url: str) -> None:
        with namespace(BLOCKING) as names:
            for block in blocks_of(BLOCKING):
                if block.language == "python" and block.program is None:
                    text = block.text.replace(f"ws://127.0.0.1:{PORT}", url)
                    exec(code_of(BLOCKING, block._replace(text=text)), names)

    async with running_server(tmp_path, BLOCKING) as url:
        await asyncio.to_thread(run, url)


JAVASCRIPT = [
    *((README, "server.py", MIGRATING, "client.mjs", library) for library in LIBRARIES),
    *((PROTOCOL, "streams.py", PROTOCOL, "streams.mjs", library) for library in WITH_STREAMS),
    *((PROTOCOL, "cafe.py", PROTOCOL, "describe.mjs", library) for library in LIBRARIES),
]


@pytest.mark.parametrize(
    ("server_page", "server", "page", "name", "library"), JAVASCRIPT, ids=[f"{row[3]}-{row[4]}" for row in JAVASCRIPT]
)
async def test_javascript_programs_run_as_shown(
    server_page: Path, server: str, page: Path, name: str, library: str, tmp_path: Path
) -> None:
    install(library, tmp_path)
    async with running_server(tmp_path, server_page, server) as url:
        await check_program(page, name, url, tmp_path, find_node())


@pytest.mark.parametrize(("name", "mistake"), [("shop.py", "an order was made twice"), ("mended_shop.py", "")])
async def test_the_mistake_of_the_shop_is_found_until_it_is_mended(name: str, mistake: str, tmp_path: Path) -> None:
    page = ROOT / "docs" / "how-to" / "simulation.md"
    (tmp_path / name).write_text(program_of(page, name), "utf-8")
    printed = await output_of(*PYTHON, name, folder=tmp_path)
    assert mistake in printed and bool(mistake) == printed.startswith("seed ")


MIGRATIONS = [
    *(("migrate-json", f"{name}.py") for name in ("old_server", "old_client", "new_server", "new_client")),
    *(("migrate-socketio", f"{name}.py") for name in ("old_server", "old_client", "new_server", "new_client")),
    *(("migrate-json", "both_servers.py"), ("migrate-socketio", "both_servers.py"), ("migrate-socketio", "script.py")),
    *(("migrate-ws-wrapper", name) for name in ("server.mjs", "server.py")),
]


def test_every_program_is_run() -> None:
    programs = {(page_name(page), block.program) for page in PAGES for block in blocks_of(page) if block.program}
    assert programs == {
        # The page of the README: tests/browser/test_shown_pages.py.
        *(("README.md", name) for name in ("drop.py", "once.py", "server.py", "client.py")),
        ("docs/how-to/ai-clients.md", "app.py"),  # by tests/browser/test_ai_clients_page.py
        ("docs/how-to/blocking.md", "server.py"),
        ("docs/how-to/frameworks.md", "asgi.py"),  # by tests/docs/test_framework_pages.py
        ("docs/how-to/http.md", "app.py"),  # by tests/docs/test_http_page.py
        ("docs/how-to/go.md", "client.py"),  # by interop/test_go_page.py
        ("docs/how-to/migrate-ws-wrapper.md", "client.mjs"),
        ("docs/how-to/observability.md", "app.py"),  # by tests/adapters/test_prometheus.py
        *(
            ("docs/how-to/see-what-happens.md", f"{name}.py") for name in ("app", "device", "telemetry")
        ),  # by tests/docs
        *(("docs/how-to/simulation.md", f"{name}.py") for name in ("shop", "mended_shop")),
        *((f"docs/how-to/{page}.md", name) for page, name in MIGRATIONS),  # by tests/docs/test_migration_pages.py
        ("docs/how-to/browser.md", "page.py"),  # by tests/browser/test_shown_pages.py
        ("docs/how-to/ws-wrapper.md", "main.mjs"),  # likewise
        ("docs/reference/command-line.md", "server.py"),  # by tests/docs/test_command_page.py
        *(("docs/reference/protocol.md", name) for name in ("streams.py", "streams.mjs", "cafe.py", "describe.mjs")),
    }


# ---------------------------------------------------------------- how long pages are


# What users and contributors look things up in. The other pages are to be read from beginning to end.
LOOKED_UP = {f"docs/reference/{name}.md" for name in ("contract-changes", "errors", "limits", "protocol", "states")}


def test_pages_are_short() -> None:
    """The API reference is made from docstrings, and is not counted."""
    written = [page for page in PAGES if page != README and page not in page_tables.API]
    words = {page_name(page): len(page.read_text("utf-8").split()) for page in written}
    assert {page: count for page, count in words.items() if count > 2500 and page not in LOOKED_UP} == {}
    assert sum(words.values()) <= 110_000


def test_what_breaks_is_under_what_changed() -> None:
    """Who moves a program to a new version reads those sections, and not "Security"."""
    unreleased = (ROOT / "CHANGELOG.md").read_text("utf-8").partition("## [Unreleased]")[2].partition("\n## ")[0]
    sections = [section for section in unreleased.split("\n### ") if "- **Breaking:**" in section]
    assert {section.partition("\n")[0] for section in sections} <= {"Changed", "For authors of adapters"}


def test_pages_agree_on_how_long_the_tests_take() -> None:
    pages = (README, ROOT / "CONTRIBUTING.md", ROOT / "docs" / "contributing" / "index.md")
    said = [re.findall(r"make test\b[^-\n]*?(\d+) minutes", page.read_text("utf-8")) for page in pages]
    assert all(len(times) == 1 for times in said) and len({times[0] for times in said}) == 1, said


# ---------------------------------------------------------------- what pages refer to


def heading_anchors(text: str) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


OTHERS = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "interop").glob("*.md")),
    *sorted((ROOT / "examples").glob("*/README.md")),
]


@pytest.mark.parametrize("page", OTHERS, ids=page_name)
def test_links_lead_somewhere(page: Path) -> None:
    """The links of docs/ are checked by `make docs`."""
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        if target.startswith(("https://", "http://")):
            continue
        file, _, anchor = target.partition("#")
        linked = page.parent / file if file else page
        assert linked.exists(), f"{page_name(page)}: {target} does not exist"
        if anchor:
            assert anchor in heading_anchors(linked.read_text("utf-8")), f"{page_name(page)}: {target}"


def public_modules() -> list[str]:
    files = {
        ".".join(path.relative_to(folder.parent).with_suffix("").parts).removesuffix(".__init__")
        for folder in (ROOT / "wsrpc", ROOT / "adapters" / "wsrpc_adapters")
        for path in [*folder.glob("*.py"), *folder.glob("*/__init__.py")]
    }
    return sorted(name for name in files - {"wsrpc_adapters"} if "._" not in name)


CLIENT, SERVER = wsrpc.Client("ws://127.0.0.1/"), wsrpc.Server()
NAMED = {
    "client": dir(CLIENT),
    "server": dir(SERVER),
    "peer": dir(CLIENT.peer),
    "room": dir(SERVER.room("x")) + dir(CLIENT.room("x")),
    "Limits": dir(wsrpc.Limits()),
}
"""What pages of the Python API may name of an object."""
OF_OTHER_APIS = {"attempts", "coming-from", "features", "go", "keys", "migrate-socketio", "typescript", "ws-wrapper"}


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_what_prose_names_exists(page: Path) -> None:
    """Such as `client.upload(...)`, which only the client for pages has."""
    if page.stem in OF_OTHER_APIS or page.stem.startswith("browser"):
        return
    prose = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)
    codes = re.findall(r"`[^`\n]+`", prose)
    for listed in re.findall(r"`Limits\.\w+`(?:(?:,|,? or)\s`[a-z_]+`)+", prose):
        codes += [f"Limits.{name}" for name in re.findall(r"`(\w+)`", listed)]
    named = re.findall(rf"(?<![\w./])({'|'.join(NAMED)})\.(\w+)(?![\w.]*\.\w)", " ".join(codes))
    assert [
        f"{of}.{name}" for of, name in named if name not in NAMED[of] and name not in ("key", "mjs", "pem", "py", "ts")
    ] == []


@pytest.mark.parametrize("module", public_modules())
def test_the_reference_has_every_public_name(module: str) -> None:
    for name in getattr(importlib.import_module(module), "__all__", ()):
        block = f"<!-- made by make tables: {module}.{name} -->\n<!-- end -->"
        assert name in by_module()[module], f"add this to a page of docs/reference/api, and run `make tables`:\n{block}"


def test_the_table_of_close_codes_has_each_code() -> None:
    page = (ROOT / "docs" / "reference" / "close-codes.md").read_text("utf-8")
    table = page.partition("## Codes by number")[2].partition("\n## ")[0]
    first = re.findall(r"^\| (\d{4}[^|]*) \|", table, re.MULTILINE)
    shown = {int(code) for cell in first for code in re.findall(r"\d{4}", cell)}
    assert shown == set(wsrpc.CloseCode)


def test_tables_on_pages_are_up_to_date() -> None:
    """They are committed, so that the pages can be read in a clone."""
    old = [page_name(file) for file, wanted in page_tables.files() if file.read_text("utf-8") != wanted]
    assert not old, f"run `make tables`, and commit what it changes: {old}"


def test_each_table_is_on_a_page() -> None:
    """A misspelt name would leave an empty block."""
    texts = [page.read_text("utf-8") for page in PAGES]
    named = [name for text in texts for _, name in page_tables.BLOCK.findall(text)]
    assert len(named) == sum(text.count("<!-- made by") for text in texts)
    assert {*named} - {page_tables.TARGETS} == page_tables.MAKERS.keys()
