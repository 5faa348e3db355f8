"""What `test_structure` counts in the source: branches, attributes of a class, and assignments from outside.

``python tests/code_shape.py > tests/structure_to_do.toml`` notes what is above the bounds and has no reason here.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
FOLDERS = ("wsrpc", "adapters")

MOST_BRANCHES = 15
MOST_ATTRIBUTES = 15

# Functions with more branches than `MOST_BRANCHES`, each with its reason.
BRANCHY: dict[str, str] = {}

# Classes whose instances have more attributes than `MOST_ATTRIBUTES`, each with its reason.
LARGE = {
    "wsrpc/limits.py: Limits": "a value: one field for each limit that users set",
    "wsrpc/handshake.py: Handshake": "a value: one field for each thing that users read or decide",
    "wsrpc/stats.py: PeerStats": "a value: one field for each number that users read",
    "wsrpc/stats.py: ServerStats": "a value: one field for each number that users read",
}

# Whose attributes are assigned from outside, each with its reason.
HANDSHAKE = "filled in by all that a connection comes by, users among them"
LIBRARY = "an object of a library, which wants it so"
OPEN_TO_ALL = {
    "adapters/wsrpc_adapters/_picows_dial.py: handshake": HANDSHAKE,
    "adapters/wsrpc_adapters/_picows_listen.py: handshake": HANDSHAKE,
    "adapters/wsrpc_adapters/_picows_listen.py: response": LIBRARY,
    "wsrpc/_base/logs.py: record": "logging's record: filters change it in place",
    "wsrpc/_client/backoff.py: self._state": LIBRARY,
    "wsrpc/_client/backoff.py: state": LIBRARY,
    "wsrpc/_command/connection.py: context": LIBRARY,
    "wsrpc/_command/loading.py: Server": "replaced while a user's module is imported, which may end in run()",
    "wsrpc/_entrance/entrance.py: handshake": HANDSHAKE,
    "wsrpc/_raw/link.py: transport": "its ``largest`` is a part of the contract that is there to be set",
    "wsrpc/_transports/accepted.py: protocol": LIBRARY,
    "wsrpc/_transports/dial.py: exc": "an OSError, as open() fills it in",
    "wsrpc/_transports/plain_handshake.py: protocol": LIBRARY,
    "wsrpc/errors.py: error": "made by a function of the class itself",
    "wsrpc/testing/_pairs.py: asked": HANDSHAKE,
}

Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def trees() -> dict[str, ast.Module]:
    """Each file, by its path below the repository, as a syntax tree."""
    paths = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    return {str(path.relative_to(ROOT)): ast.parse(path.read_text("utf-8"), str(path)) for path in paths}


def definitions(tree: ast.AST, outer: str = "") -> Iterator[tuple[str, Function | ast.ClassDef]]:
    """Every class and function with its qualified name."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, Function | ast.ClassDef):
            yield f"{outer}{node.name}", node
            yield from definitions(node, f"{outer}{node.name}.")
        else:
            yield from definitions(node, outer)


def assigned(tree: ast.AST) -> Iterator[ast.Attribute]:
    """Each ``x.y`` that is assigned below ``tree``, however: the tree itself says what is stored and what is read."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node


# ---------------------------------------------------------------- branches


def branchy_functions() -> dict[str, int]:
    """The functions with more than `MOST_BRANCHES` branches, as ruff's PLR0912 counts them."""
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--no-cache", "--exit-zero", "--ignore-noqa"]
    command += ["--select=PLR0912", f"--config=lint.pylint.max-branches={MOST_BRANCHES}", "--output-format=json"]
    done = subprocess.run([*command, *FOLDERS], cwd=ROOT, capture_output=True, text=True, check=True)
    found: dict[str, int] = {}
    for finding in json.loads(done.stdout):
        assert finding["code"] == "PLR0912", finding
        path = str(Path(finding["filename"]).relative_to(ROOT))
        row = finding["location"]["row"]
        [name] = [
            name for name, node in definitions(trees()[path]) if isinstance(node, Function) and node.lineno == row
        ]
        # "Too many branches (16 > 15)"
        found[f"{path}: {name}"] = int(finding["message"].partition("(")[2].split()[0])
    return found


# ---------------------------------------------------------------- attributes


def attributes_of(cls: ast.ClassDef) -> set[str]:
    """The names that a class body gives its instances: assigned to ``self`` in a method, in ``__slots__``, annotated.

    What a base class has does not count: that one is bounded, too.
    """
    names: set[str] = set()
    for statement in cls.body:
        match statement:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                names |= {found.attr for found in assigned(statement) if ast.unparse(found.value) == "self"}
            case ast.AnnAssign(target=ast.Name(id=name), annotation=annotation):
                if "ClassVar" not in ast.unparse(annotation):
                    names.add(name)
            case ast.Assign(targets=[ast.Name(id="__slots__")], value=value):
                slots = ast.literal_eval(value)
                names |= {slots} if isinstance(slots, str) else set(slots)
            case _:
                pass
    return names - {"__weakref__", "__dict__"}


def large_classes() -> dict[str, int]:
    """The classes whose instances have more than `MOST_ATTRIBUTES` attributes."""
    sizes = {
        f"{path}: {name}": len(attributes_of(node))
        for path, tree in trees().items()
        for name, node in definitions(tree)
        if isinstance(node, ast.ClassDef)
    }
    return {name: size for name, size in sizes.items() if size > MOST_ATTRIBUTES}


# ---------------------------------------------------------------- assignments from outside


def is_record(cls: ast.ClassDef) -> bool:
    """Whether it is a struct or dataclass that may change: its fields are there for those who hold it."""
    bases = {ast.unparse(base) for base in cls.bases}
    decorators = [ast.unparse(decorator) for decorator in cls.decorator_list]
    frozen = any(keyword.arg == "frozen" for keyword in cls.keywords)
    return bool(bases & {"Struct", "msgspec.Struct"} and not frozen) or any(
        text.startswith(("dataclass", "dataclasses.dataclass")) and "frozen=True" not in text for text in decorators
    )


@cache
def fields_of_records() -> frozenset[str]:
    return frozenset(
        name
        for tree in trees().values()
        for _, node in definitions(tree)
        if isinstance(node, ast.ClassDef) and is_record(node)
        for name in attributes_of(node)
    )


class Outside(NamedTuple):
    """Assignments to attributes of other objects than ``self``, each as file and target."""

    wired: set[str]
    """In an ``__init__``: an object that is finished by another one's constructor."""
    changed: set[str]
    """Anywhere else."""


def assigned_from_outside() -> Outside:
    """Look for assignments from outside.

    Not counted are the fields of a record in a local variable, and Python's own, such as ``__cause__``.
    """
    found = Outside(set(), set())
    for path, tree in trees().items():
        constructors = [node for name, node in definitions(tree) if name.endswith(".__init__")]
        within = {target for constructor in constructors for target in assigned(constructor)}
        for target in assigned(tree):
            owner = ast.unparse(target.value)
            if owner in ("self", "cls") or (target.attr.startswith("__") and target.attr.endswith("__")):
                continue
            if isinstance(target.value, ast.Name) and target.attr in fields_of_records():
                continue
            (found.wired if target in within else found.changed).add(f"{path}: {owner}.{target.attr}")
    return found


def main() -> None:
    print(
        "# What test_structure.py still allows above its bounds: made by `python tests/code_shape.py`. No entry may be"
    )
    print("# added, and no number may grow.")
    for title, numbers, allowed in (
        ("branches", branchy_functions(), BRANCHY),
        ("attributes", large_classes(), LARGE),
    ):
        print(f"\n[{title}]")
        for name in sorted(numbers.keys() - allowed):
            print(f"{json.dumps(name)} = {numbers[name]}")
    print("\n[outside]")
    for title, targets in assigned_from_outside()._asdict().items():
        print(f"{title} = [")
        for text in sorted(targets):
            if text.rpartition(".")[0] not in OPEN_TO_ALL:
                print(f"    {json.dumps(text)},")
        print("]")


if __name__ == "__main__":
    main()
