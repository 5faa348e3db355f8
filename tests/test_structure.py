"""The structure of the package: its layers, its folders, and which imports cross them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from scripts.modules import LAYERS

ROOT = Path(__file__).parent.parent

LAYER_OF = {name: number for number, layer in enumerate(LAYERS) for name in layer}

FOR_TYPES_ONLY = {
    # What users read off a peer must have its type.
    ("_core.api.annotations", "wsrpc._server.rooms.room.Room"),
    ("_core.api.annotations", "wsrpc._server.server.Server"),
    # `Server.cluster` has its type, and a cluster makes servers of its own, for its links.
    ("_server.server", "wsrpc.cluster._cluster.Cluster"),
    # Middleware gets a context, which has a peer, on which middleware is registered.
    ("_core.api.registration", "wsrpc._core.api.context.Middleware"),
    # A part calls the one object that it is a part of, which a reader finds by its type.
    ("_core.handlers.invocation", "wsrpc._core.channels.channel_core.ChannelCore"),
    ("_core.handlers.invocation", "wsrpc._core.handlers.compiled.Handler"),
    ("_core.handlers.invocation", "wsrpc._core.peer.dispatcher.Dispatcher"),
    ("_core.sending.pending", "wsrpc._core.channels.channel_core.ChannelCore"),
    ("_core.channels.mailbox", "wsrpc._core.channels.channel_core.ChannelCore"),
    ("_core.channels.channel_core", "wsrpc._core.channels.channel_table.ChannelTable"),
    ("_core.channels.channel_table", "wsrpc._core.peer.dispatcher.Dispatcher"),
    ("_core.peer.admission", "wsrpc._core.peer.dispatcher.Dispatcher"),
    ("_core.peer.waiting_room", "wsrpc._core.peer.dispatcher.Dispatcher"),
    ("_core.session.peer_host", "wsrpc._core.peer.peer_core.PeerCore"),
    ("_core.session.peer_host", "wsrpc._core.peer.peer_session.PeerSession"),
    ("_core.session.peer_host", "wsrpc._core.handlers.lifecycle.Reporter"),
    ("_core.session.peer_owner", "wsrpc._core.handlers.registry.Registry"),
    ("_core.session.replay", "wsrpc._core.session.session.Session"),
    ("_client.dialing", "wsrpc._client.client_core.ClientCore"),
    ("_server.rooms.room", "wsrpc._server.rooms.rooms.Rooms"),
}
"""The imports upwards, each with its reason. They are for type checkers only."""


class Import(NamedTuple):
    line: int
    name: str
    for_types: bool


def files(folder: str) -> list[Path]:
    found = sorted((ROOT / folder).rglob("*.py"))
    assert found, f"no modules in {folder}"
    return found


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def module_of(path: Path) -> str:
    """The dotted name of a file below ``wsrpc``."""
    return ".".join(path.relative_to(ROOT / "wsrpc").with_suffix("").parts).removesuffix(".__init__")


def part_of(module: str) -> str:
    """The package, or the module beside the packages, that ``module`` belongs to; in the core, the package there."""
    first, _, rest = module.partition(".")
    return f"{first}.{rest.partition('.')[0]}" if first == "_core" and rest else first


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"), str(path))


def imports_of(path: Path, package_root: Path) -> Iterator[Import]:
    """Each import of a file, those inside functions and type-only blocks too.

    ``from a import b`` gives ``a.b``, because ``b`` may be a module.
    """
    tree = tree_of(path)
    only_types = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    package = path.relative_to(package_root).parent.parts
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (Import(node.lineno, alias.name, node in only_types) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = list(package[: len(package) - node.level + 1]) if node.level else []
            base = ".".join(start + ([node.module] if node.module else []))
            yield from (Import(node.lineno, f"{base}.{alias.name}", node in only_types) for alias in node.names)


@cache
def modules() -> dict[str, Path]:
    return {module_of(path): path for path in files("wsrpc")}


def module_imported(name: str) -> str | None:
    """The module of wsrpc that an imported name lies in, or None for a name from elsewhere."""
    first, _, rest = name.partition(".")
    if first != "wsrpc":
        return None
    if rest in modules():
        return rest
    module = rest.rpartition(".")[0]
    return module if module in modules() else "__init__"


def test_a_module_imports_only_from_lower_layers() -> None:
    assert {part_of(module) for module in modules()} - {"_core"} == LAYER_OF.keys(), "scripts/modules.py has the layers"
    upwards = [
        f"{name_of(path)}:{found.line}, of layer {LAYER_OF[part]}, imports {found.name}"
        for module, path in modules().items()
        for found in imports_of(path, ROOT)
        if (target := module_imported(found.name)) is not None
        and part_of(target) != (part := part_of(module))
        and not LAYER_OF[part_of(target)] < LAYER_OF[part]
        and not (LAYER_OF[part_of(target)] == LAYER_OF[part] and not part.startswith("_"))
        and not (found.for_types and (module, found.name) in FOR_TYPES_ONLY)
    ]
    assert not upwards, "\n".join(upwards)


def test_every_exception_for_types_is_in_use() -> None:
    assert len(FOR_TYPES_ONLY) <= 20
    imported = {
        (module, found.name)
        for module, path in modules().items()
        for found in imports_of(path, ROOT)
        if found.for_types
    }
    assert imported >= FOR_TYPES_ONLY


def test_no_import_goes_round_in_a_circle() -> None:
    """Type-only imports count, too, but for those that `FOR_TYPES_ONLY` names."""
    uses = {
        module: {
            target
            for found in imports_of(path, ROOT)
            if (target := module_imported(found.name)) is not None
            and target != module
            and (module, found.name) not in FOR_TYPES_ONLY
        }
        for module, path in modules().items()
    }
    while free := [module for module, used in uses.items() if not used & uses.keys()]:
        for module in free:
            del uses[module]
    assert not uses, "these import each other, or are imported by a circle: " + ", ".join(sorted(uses))


def test_every_package_says_what_it_is_for() -> None:
    for path in files("wsrpc"):
        if path.name == "__init__.py":
            assert ast.get_docstring(tree_of(path)), name_of(path)


def test_wsrpc_never_imports_an_adapter() -> None:
    names = {f"{name_of(path)}: {found.name}" for path in files("wsrpc") for found in imports_of(path, ROOT)}
    assert not [name for name in names if "wsrpc_adapters" in name]


def test_an_adapter_imports_only_public_names() -> None:
    names = {(name_of(path), found.name) for path in files("adapters") for found in imports_of(path, ROOT / "adapters")}
    assert not [each for each in names if each[1].startswith("wsrpc._")], "wsrpc.adapting is for them"


def test_a_module_assigns_private_attributes_of_its_own_objects_only() -> None:
    outside: list[str] = []
    for path in [*files("wsrpc"), *files("adapters")]:
        nodes = ast.walk(tree_of(path))
        assigned = [node for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)]
        own = {node.attr for node in assigned if ast.unparse(node.value) in ("self", "cls")}
        others = [node for node in assigned if re.match(r"_(?!_)", node.attr) and node.attr not in own]
        outside += [f"{name_of(path)}:{node.lineno} {ast.unparse(node)}" for node in others]
    assert not outside, "\n".join(outside)


def docstrings_of(path: Path) -> list[ast.Constant]:
    """The docstrings of a file, also those of attributes."""
    return [
        statement.value
        for node in ast.walk(tree_of(path))
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        for statement in node.body
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    ]


DEFINED_ELSEWHERE = {"SSLSocket", "getpeercert", "eager_task_factory", "TypedDict", "TestClient", "Shape"}
"""Names in docstrings that other libraries or the TypeScript of `browser` define, and that no Python here uses."""


def test_what_a_docstring_names_is_there() -> None:
    paths = [*files("wsrpc"), *files("adapters")]
    docstrings = {path: docstrings_of(path) for path in paths}
    known = set(DEFINED_ELSEWHERE)
    for path in paths:
        known.update(path.relative_to(ROOT).with_suffix("").parts)
        for node in ast.walk(tree_of(path)):
            texts = [getattr(node, field, None) for field in ("id", "attr", "name", "arg", "module", "asname")]
            if isinstance(node, ast.Constant) and node not in docstrings[path]:
                texts.append(node.value)  # a name in a table, or one that travels in messages
            known.update(word for text in texts if isinstance(text, str) for word in re.findall(r"\w+", text))
    unknown = [
        f"{name_of(path)}:{docstring.lineno} {name}"
        for path, found in docstrings.items()
        for docstring in found
        for name in re.findall(r"(?<!`)`([A-Za-z_][\w.]*)(?:\(\))?`(?!`)", str(docstring.value))
        if not set(name.split(".")) <= known
    ]
    assert not unknown, "\n".join(unknown)
