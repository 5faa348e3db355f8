"""Names in a Python module that is made of a description: identifiers that clash with nothing."""

from __future__ import annotations

import builtins
import keyword
import re
import unicodedata

from .name_table import NameTable

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
    "TypeAlias": "typing",
    "UUID": "uuid",
}
"""What the module may import: each name, and the module that it comes from ("" for a module)."""

LONGEST = 60
"""How long a name may be."""

_TAKEN = frozenset({*dir(builtins), *keyword.kwlist, *keyword.softkwlist, *IMPORTS, "annotations"})


def module_names() -> NameTable:
    """Return the table of a module's names, where builtins, keywords and imports are in use."""
    return NameTable(_TAKEN)


def identifier(text: str, otherwise: str) -> str:
    """Return an identifier like ``text``, which does not begin with an underscore. It may be a keyword.

    ``otherwise`` is the beginning of a name for a text that has no letter at its own beginning.
    """
    name = re.sub(r"\W+", "_", unicodedata.normalize("NFKC", text)).strip("_")
    # A character may be part of a word in a regular expression, and of no identifier.
    if not f"_{name}".isidentifier():
        name = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_")
    if not name.isidentifier():
        name = f"{otherwise}_{name}" if name else otherwise
    # A second normalization changes nothing, but a cut may leave an underscore.
    return unicodedata.normalize("NFKC", name[:LONGEST]).rstrip("_")


def is_plain(text: str) -> bool:
    """Whether ``text`` is the name of a field or a method just as it stands."""
    return text.isidentifier() and identifier(text, "") == text and not keyword.iskeyword(text)


def class_name(text: str, otherwise: str) -> str:
    """Return a name like ``text`` in the form of a class's: ``FilesOfUser`` for ``files of-user``."""
    name = "".join(part[:1].upper() + part[1:] for part in identifier(text, otherwise).split("_"))
    return name if name.isidentifier() else identifier(name, otherwise)


def member_name(value: str | int) -> str:
    """Return the name of the member of an enumeration, for its value."""
    if isinstance(value, int):
        return f"VALUE_{value}" if value >= 0 else f"VALUE_MINUS_{-value}"
    humps = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", value)
    name = identifier(unicodedata.normalize("NFKC", humps.upper()), "VALUE") if value else "EMPTY"
    return identifier(name.upper(), "VALUE")
