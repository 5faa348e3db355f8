"""What one handler does reaches nobody else: context variables, exceptions of all kinds."""

from __future__ import annotations

from contextvars import ContextVar

import pytest
from core_driver import Driven, turns
from leftovers import nothing_left as nothing_left

from wsrpc import current_context, current_peer

pytestmark = pytest.mark.usefixtures("nothing_left")

LIFECYCLE = ["open", "message", "error", "close"]

user: ContextVar[str] = ContextVar("user", default="nobody")


# ---------------------------------------------------------------- context variables


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("event", [*LIFECYCLE, "login", "fail"])
async def test_what_a_read_or_a_lifecycle_handler_sets_is_gone_with_it(event: str, is_async: bool) -> None:
    d, seen = Driven(bind=False), list[str]()

    def login() -> None:
        seen.append(user.get())
        user.set("ada")
        if event == "fail":
            raise ValueError

    async def login_async() -> None:
        login()

    d.peer.on(event, login_async if is_async else login)
    d.peer.on("whoami", lambda: seen.append(user.get()))
    for _ in range(2):
        d.rebind()
        d.feed({"a": ["whoami"]}, {"a": []}, {"a": [event]}, {"a": ["whoami"]})
        for current in (current_peer, current_context):
            with pytest.raises(RuntimeError, match="no handler is running here"):
                current()
        await turns()
        d.transport.lose()
    await turns()
    assert set(seen) == {"nobody"}
    assert user.get() == "nobody"
