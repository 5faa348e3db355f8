"""The tables of the API reference: the names that a page describes and their members, made from the docstrings.

The site shows the names, and below them the complete descriptions, which it makes itself. A clone has both tables.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

import griffe

from scripts.docs_names import MADE_BY_THE_LIBRARY, REFERENCE, UNSUPPORTED, describe_members, show_type_alone

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(page for page in REFERENCE.glob("*.md") if page.name != "index.md")
HEAD = ["| name | description |", "|---|---|"]
BAR = r"\|"
"""A bar that does not end the cell of a table."""
SHORT = 200
"""Characters of a description of a parameter or an attribute that has more than one sentence."""
SENTENCE = re.compile(r"\S.*?[.!?](?=\s+[A-Z`(]|$)")


def described(page: Path) -> list[str]:
    """Return the names that a page of the reference describes, in its order."""
    return re.findall(r"^::: ([\w.]+)$", page.read_text("utf-8"), re.MULTILINE)


def names(page: Path) -> str:
    """Return a table of the names of a page. Each is a link to the module that defines it."""
    rows = []
    for name in described(page):
        found = _object(name)
        assert isinstance(found.filepath, Path)
        source = os.path.relpath(found.filepath, page.parent)
        rows.append(f"| [`{name}`]({source}) | {_subject(found)} |")
    return "\n".join([*HEAD, *rows])


def members(page: Path) -> str:
    """Return a table of the functions of a page, and for each class how it is made, and its methods and attributes."""
    objects = {name: _object(name) for name in described(page)}
    classes = {name: found for name, found in objects.items() if isinstance(found, griffe.Class)}
    functions = {name: found for name, found in objects.items() if isinstance(found, griffe.Function)}
    parts: list[str] = []
    if functions:
        calls = [_row(_call(name, found), _subject(found)) for name, found in functions.items()]
        parts += ["### Functions", "", *HEAD, *calls, ""]
    own: dict[str, list[str]] = {}
    for name, found in classes.items():
        bases = {base.path: shown for base in found.mro() for shown, each in classes.items() if each is base}
        own[name] = [*_making(found, bases), *_table(HEAD, _members(found, bases)), *_table(HEAD, _left(found))]
    for name, found in classes.items():
        mro = [shown for base in found.mro() for shown, each in classes.items() if each is base and own[shown]]
        also = [f"It also has the members of {' and '.join(f'`{base}`' for base in mro)}.", ""] if mro else []
        if own[name] or also:
            parts += [f"### Members of `{name}`", "", *own[name], *also]
    return "\n".join(parts).rstrip()


def _making(cls: griffe.Class, bases: Mapping[str, str]) -> Iterator[str]:
    """The call that makes an object, and a table of its parameters that are described."""
    made = cls.all_members.get("__init__")
    made = made.final_target if isinstance(made, griffe.Alias) else made
    if cls.name in MADE_BY_THE_LIBRARY or not isinstance(made, griffe.Function):
        return
    rows = [_row(name, _first(text)) for name, text in _entries(cls, "parameters").items()]
    inherited = made.parent is not None and made.parent.path in bases
    call = _call(cls.name, made)
    if (inherited and not rows) or call == f"{cls.name}(*args, **kwargs)":
        return
    yield from (f"`{call}`", "")
    yield from _table(["| parameter | description |", HEAD[1]], rows)


def _table(head: list[str], rows: Iterable[str]) -> list[str]:
    rows = list(rows)
    return [*head, *rows, ""] if rows else []


def _members(cls: griffe.Class, bases: Mapping[str, str]) -> Iterator[str]:
    # Of these, the names say what there is, even without a description.
    named = any(str(base).endswith(("Protocol", "IntEnum")) for base in cls.bases) and cls.name[-8:] != "Protocol"
    for name, member in cls.all_members.items():
        found = member.final_target if isinstance(member, griffe.Alias) else member
        if name.startswith("_") or (found.parent is not None and found.parent.path in bases):
            continue
        if isinstance(found, griffe.Function) and (found.docstring is not None or named):
            yield _row(_call(name, found), _subject(found) or _mention(cls, name))
        elif isinstance(found, griffe.Attribute):
            if (value := str(found.value)).startswith("'wsrpc."):
                yield _row(f"{name} = {value}", "The code of this error.")
            elif (text := _subject(found) or _mention(cls, name)) or named:
                yield _row(_field(found), text)


def _left(cls: griffe.Class) -> Iterator[str]:
    """The attributes that only the docstring of the class has, because the code sets them in another way."""
    for name, text in _entries(cls, "attributes").items():
        yield _row(name, _first(text))


def _field(found: griffe.Attribute) -> str:
    """A field with its type, and the default that a class gives it."""
    show_type_alone(found)
    shown = found.name
    if found.annotation is not None:
        shown += f": {found.annotation}"
    value = str(found.value)
    if found.value is not None and "class-attribute" in found.labels and value != found.name and "field(" not in value:
        shown += f" = {value}"
    return shown


def _mention(cls: griffe.Class, name: str) -> str:
    """What a docstring says about an attribute without one: as a parameter, or in a sentence that names it."""
    for each in [cls, *cls.mro()]:
        if text := _entries(each, "parameters").get(name):
            return _first(text)
        prose = each.docstring.value.partition("\n\nArgs:")[0] if each.docstring else ""
        for sentence in SENTENCE.findall(_line(prose)):
            if f"`{name}`" in sentence:
                return str(sentence)
    return ""


def _entries(cls: griffe.Class, kind: str) -> dict[str, str]:
    """The entries of a section, such as "Args:", in the docstrings of a class and of its ``__init__``."""
    made = cls.members.get("__init__")
    found: dict[str, str] = {}
    for docstring in (cls.docstring, made.docstring if isinstance(made, griffe.Function) else None):
        for section in docstring.parse("google", warnings=False) if docstring is not None else ():
            if section.kind.value == kind:
                found |= {each.name: each.description for each in section.value}
    return found


def _row(code: str, text: str) -> str:
    return f"| `{code.replace('|', BAR)}` | {text} |"


def _call(name: str, function: griffe.Function) -> str:
    """A call, with the names and the defaults of the parameters."""
    shown: list[str] = []
    parameters = [each for each in function.parameters if each.name not in ("self", "cls", UNSUPPORTED)]
    kinds = [each.kind for each in parameters]
    for parameter, before in zip(parameters, [None, *kinds], strict=False):
        match parameter.kind:
            case griffe.ParameterKind.var_positional:
                shown.append(f"*{parameter.name}")
                continue
            case griffe.ParameterKind.var_keyword:
                shown.append(f"**{parameter.name}")
                continue
            case griffe.ParameterKind.keyword_only:
                if before not in (griffe.ParameterKind.keyword_only, griffe.ParameterKind.var_positional):
                    shown.append("*")
        # The name of a constant, such as UNSET, says nothing.
        default = re.sub(r"^[A-Z_]+$", "...", str(parameter.default))
        shown.append(parameter.name if parameter.default is None else f"{parameter.name}={default}")
    return f"{name}({', '.join(shown)})"


def _subject(described: griffe.Object) -> str:
    """The first paragraph of a docstring, or the beginning of an attribute's, as one line, in Markdown."""
    text = described.docstring.value if described.docstring else ""
    text = text.partition("\n\n")[0]
    return _first(text) if isinstance(described, griffe.Attribute) else _line(text)


def _first(text: str) -> str:
    """The first sentence, and the next ones if they are short, as one line, in Markdown."""
    line = _line(text)
    ends = [found.end() for found in SENTENCE.finditer(line)] or [len(line)]
    first = line[: max([ends[0], *[end for end in ends if end <= SHORT]])]
    return first[:1].upper() + first[1:]


def _line(text: str) -> str:
    # "::" begins an indented block, which is not shown here.
    line = re.sub(r"\s*::$", ".", " ".join(text.split()))
    return line.replace("``", "`").replace("|", BAR)


def _object(name: str) -> griffe.Object:
    found = _packages()[name]
    return found.final_target if isinstance(found, griffe.Alias) else found


@cache
def _packages() -> griffe.ModulesCollection:
    loader = griffe.GriffeLoader(search_paths=[ROOT, ROOT / "adapters"])
    for package in ("wsrpc", "wsrpc_adapters"):
        loader.load(package)
    loader.resolve_aliases(external=False)
    for page in PAGES:
        for name in described(page):
            found = loader.modules_collection[name]
            found = found.final_target if isinstance(found, griffe.Alias) else found
            if isinstance(found, griffe.Class) and found.docstring is not None:
                describe_members(found, found.docstring)
    return loader.modules_collection
