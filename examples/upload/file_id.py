"""The id of a file, by its content. The page computes the same one."""

from __future__ import annotations

import hashlib
from pathlib import Path


def id_of(path: Path) -> str:
    """Return a hash of the content: of each piece with the hash of those before."""
    digest = bytes(32)
    with path.open("rb") as file:
        while piece := file.read(2**20):
            digest = hashlib.sha256(digest + piece).digest()
    return digest.hex()
