"""Texts and names of Python source. Names are identifiers that clash with nothing.

Each statement is one line, and formatters leave a generated module alone.
"""

from __future__ import annotations

import builtins
import inspect
import keyword
import re
import unicodedata

from ._name_table import NameTable


def subscript(head: str, *items: str) -> str:
    """Return ``head[items]``."""
    return f"{head}[{', '.join(items)}]"


def _escaped(text: str) -> str:
    """Return ``text`` with an escape for each backslash and each character that is not printable."""
    return "".join(
        char if char.isprintable() and char != "\\" else char.encode("unicode_escape").decode("ascii") for char in text
    )


def literal(value: str | float | bool | None) -> str:
    """Return a value as a literal."""
    if not isinstance(value, str):
        return repr(value).replace("e+", "e")
    quote = "'" if value.count('"') > value.count("'") else '"'
    inside = _escaped(value).replace(quote, "\\" + quote)
    return f"{quote}{inside}{quote}"


def comment(text: str, indent: str = "") -> list[str]:
    """Return the lines of a comment, one for each line of ``text``."""
    return [f"{indent}# {_escaped(line.strip())}".rstrip() for line in text.splitlines()]


def docstring(text: str, indent: str = "") -> list[str]:
    """Return the lines of a docstring. An empty list if ``text`` is empty."""
    text = text.encode(errors="replace").decode()  # Python 3.13 refuses a docstring with half of a surrogate pair
    lines = inspect.cleandoc(text.replace("\r\n", "\n")).strip().split("\n")
    lines = [_escaped(line.rstrip()) for line in lines]
    if '"""' in text or lines[0].startswith('"') or lines[-1].endswith('"'):
        lines = [line.replace('"', '\\"') for line in lines]
    if lines == [""]:
        return []
    if len(lines) == 1:
        return [f'{indent}"""{lines[0]}"""']
    return [f'{indent}"""{lines[0]}', *(f"{indent}{line}".rstrip() for line in lines[1:]), f'{indent}"""']


IMPORTS: dict[str, str] = {
    "builtins": "",
    "dt": "",
    "enum": "",
    "msgspec": "",
    "wsrpc": "",
    "Any": "typing",
    "AsyncIterable": "collections.abc",
    "Decimal": "decimal",
    "Literal": "typing",
    "Protocol": "typing",
    "TYPE_CHECKING": "typing",
    "TypeAlias": "typing",
    "UUID": "uuid",
}
"""Names that a generated module may import, each with its module. The text is empty for names of modules."""

DEPRECATED = """\
if TYPE_CHECKING:
    from typing_extensions import deprecated
else:

    def deprecated(text):
        return lambda method: method"""
"""Type checkers bring `typing_extensions`, and Python has `warnings.deprecated` only from 3.13 on."""

LONGEST_NAME = 60
"""Maximum number of characters of a name."""

_RESERVED = frozenset(
    {*dir(builtins), *keyword.kwlist, *keyword.softkwlist, *IMPORTS, "annotations", "CONTRACT", "deprecated"}
)


def module_names() -> NameTable:
    """Return the table of a module's names. Builtins, keywords and imports are used already."""
    return NameTable(_RESERVED)


def identifier(text: str, otherwise: str) -> str:
    """Return an identifier like ``text`` that does not begin with an underscore. It may be a keyword.

    If ``text`` does not begin with a letter, the identifier begins with ``otherwise``.
    """
    name = re.sub(r"\W+", "_", unicodedata.normalize("NFKC", text)).strip("_")
    # Some characters are part of a word for regular expressions, but cannot be part of an identifier.
    if not f"_{name}".isidentifier():
        name = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_")
    if not name.isidentifier():
        name = f"{otherwise}_{name}" if name else otherwise
    # A second normalization changes nothing, but the text that was cut may end with an underscore.
    return unicodedata.normalize("NFKC", name[:LONGEST_NAME]).rstrip("_")


def is_plain(text: str) -> bool:
    """Whether ``text`` can be the name of a field or a method without a change."""
    return text.isidentifier() and identifier(text, "") == text and not keyword.iskeyword(text)


def plain_identifier(text: str, otherwise: str) -> str:
    """Return a name like ``text`` for a field, a method or a parameter: ``text`` itself if Python allows it."""
    name = identifier(text, otherwise)
    return name if is_plain(name) else f"{name}_"


def class_name(text: str, otherwise: str) -> str:
    """Return a name for a class that is like ``text``: ``FilesOfUser`` for ``files of-user``."""
    name = "".join(part[:1].upper() + part[1:] for part in identifier(text, otherwise).split("_"))
    return name if name.isidentifier() else identifier(name, otherwise)


def member_name(value: str | int) -> str:
    """Return the name of the member of an enumeration, for its value."""
    if isinstance(value, int):
        return f"VALUE_{value}" if value >= 0 else f"VALUE_MINUS_{-value}"
    humps = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", value)
    name = identifier(unicodedata.normalize("NFKC", humps.upper()), "VALUE") if value else "EMPTY"
    return identifier(name.upper(), "VALUE")
