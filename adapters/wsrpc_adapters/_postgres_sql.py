"""`SQL`: the statements of ``_postgres_store.sql``, by their names."""

from __future__ import annotations

import re
from importlib.resources import files
from types import SimpleNamespace

KEY, LISTS, PAYER, SUBJECT = 1, 2, 3, 4
"""Kinds of names that a transaction locks until its end, in this order."""


def load() -> SimpleNamespace:
    """Return the statements. A name in braces stands for an earlier one, which is a part of several."""
    text = files("wsrpc_adapters").joinpath("_postgres_store.sql").read_text("utf-8")
    _, *parts = re.split(r"^-- name: (\w+)\n", text, flags=re.MULTILINE)
    found: dict[str, str] = {}
    for name, statement in zip(parts[::2], parts[1::2], strict=True):
        found[name] = re.sub(r"\{(\w+)\}", lambda part: found.get(part[1], part[0]), statement.strip())
    return SimpleNamespace(**found)


SQL = load()
