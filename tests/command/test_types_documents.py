"""`wsrpc types --asyncapi` and `--openapi`: official validators read the documents, and real messages fit them."""

from __future__ import annotations

import json
from pathlib import Path

from openapi_spec_validator import validate
from programs import PYTHON, ROOT, start

from interop.node import JS, find_node


async def output_of(*command: str, cwd: Path | None = None) -> str:
    process = await start(*command, cwd=cwd)
    out, err = await process.communicate()
    assert process.returncode == 0, (out + err).decode()
    return out.decode()


async def test_official_validators_have_nothing_to_say_of_the_examples(tmp_path: Path) -> None:
    await output_of(*PYTHON, str(ROOT / "tests" / "command" / "example_documents.py"), str(tmp_path))
    written = sorted(tmp_path.glob("*.openapi"))
    assert len(written) > 25
    for file in written:
        validate(json.loads(file.read_text("utf-8")))
    files = [str(file.with_suffix(".asyncapi")) for file in written]
    said = json.loads(await output_of(find_node(), str(JS / "asyncapi.mjs"), *files))
    # There is a newer version of AsyncAPI 3, which not all tools read.
    others = {file: [each for each in said[file] if each[0] != "asyncapi-latest-version"] for file in files}
    assert {file: each for file, each in others.items() if each} == {}
