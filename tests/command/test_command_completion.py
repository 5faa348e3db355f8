"""`wsrpc completion`: what shells offer."""

from __future__ import annotations

import re
from typing import Protocol

import pytest
from command_process import bash, prints, serving

from wsrpc.schema import describe


class Events(Protocol):
    async def said(self, text: str, /) -> None: ...


async def completed(line: str) -> list[str]:
    """What bash's script offers where the cursor stands behind a line."""
    return (await prints(env={"COMP_LINE": line, "_WSRPC_COMPLETE": "bash_complete"})).split()


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("wsrpc c", ["call", "client", "completion"]),
        ("wsrpc completion ", ["bash", "zsh", "fish"]),
        ("wsrpc call ws://a b --c", ["--channel", "--cacert", "--cert", "--compress", "--cluster"]),
        ("wsrpc call ws://a b --send ", []),  # names of files
        ("wsrpc call ws://127.0.0.1:1 ", []),  # no server
    ],
)
async def test_commands_and_options_are_completed(line: str, offered: list[str]) -> None:
    assert await completed(line) == offered


IN_BASH = """
source <(wsrpc completion bash)
function="$(complete -p wsrpc | sed 's/.* -F \\([^ ]*\\) .*/\\1/')"
COMP_LINE="$1" COMP_POINT="${#1}"
"$function"
echo "${COMPREPLY[@]}"
"""
"""What bash offers by the script that users load."""


async def test_names_of_events_and_channels_are_completed() -> None:
    async with serving() as played:
        played.server.on("of:colons:a", lambda: 1)
        played.server.on("of:colons:b", lambda: 1)
        played.server.on("$(reboot)", lambda: 1)
        played.server.of("chat").declare(Events)
        url = played.url
        assert await completed(f"wsrpc call {url} ") == []
        played.server.offer_description()
        events = [each.event for each in describe(played.server).events if each.channel is None]
        lines = {
            f"wsrpc call --timeout 5 {url} ": sorted(name for name in events if "$" not in name),
            f"wsrpc call {url} a": ["add", "args"],
            f"wsrpc emit {url} --channel chat ": ["ask", "say"],
            f"wsrpc stream {url} --channel ": ["chat"],
            f"wsrpc listen {url} --channel chat ": ["said"],
            f"wsrpc call {url} of:colons:": ["a", "b"],  # bash has the rest already
            f"wsrpc call {url} add ": [],
        }
        assert {line: await completed(line) for line in lines} == lines
        assert await bash(IN_BASH, f"wsrpc call {url} of:colons:") == (0, "a b\n", "")
        for shell, word in (("zsh", "3"), ("fish", "of:c")):
            line = {"COMP_WORDS": f"wsrpc call {url} of:c", "COMP_CWORD": word}
            out = await prints(env={**line, "_WSRPC_COMPLETE": f"{shell}_complete"})
            assert re.findall("of:colons:[a-z]", out) == ["of:colons:a", "of:colons:b"]
            assert f"_WSRPC_COMPLETE={shell}_complete" in await prints("completion", shell)
