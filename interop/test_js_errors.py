"""Rejections between Python and JavaScript."""

from __future__ import annotations

import pytest

from interop.peers import Link
from wsrpc import HandlerFailed, RemoteError, RpcError

pytestmark = pytest.mark.asyncio(loop_scope="session")


OBJECT = {"reason": "because", "attempt": 1}


async def failing(link: Link, kind: str) -> RemoteError:
    with pytest.raises(RemoteError) as raised:
        await link.peer.request("fail", kind)
    assert type(raised.value) is RemoteError
    return raised.value


async def test_errors_of_javascript(link: Link) -> None:
    for kind, text in [("error", "it failed"), ("type", "wrong type"), ("async", "failed later")]:
        error = await failing(link, kind)
        assert (str(error), error.message, error.code, error.data) == (text, text, None, None)
        assert (dict(error.fields), error.plain) == ({}, False)


async def test_further_fields_of_errors_of_javascript(link: Link) -> None:
    await link.agent.call("set", error_props=True)
    error = await failing(link, "error")
    assert (error.message, error.code, error.data) == ("it failed", "E_FAIL", None)
    assert dict(error.fields) == {"detail": {"attempt": 1}}
    with pytest.raises(TypeError):
        error.fields["detail"] = None  # type: ignore[index]
    assert not hasattr(error, "detail")


async def test_values_thrown_in_javascript(link: Link) -> None:
    for kind, text, data, plain in [
        ("string", "just text", "just text", True),
        ("object", f"rejected with {OBJECT}", OBJECT, True),
        ("null", "Error", None, False),
    ]:
        error = await failing(link, kind)
        assert (str(error), error.data, error.plain) == (text, data, plain)


async def test_further_fields_in_javascript(link: Link) -> None:
    @link.app.on("fielded")
    def fielded() -> None:
        raise RpcError("it failed", code=42, fields={"detail": {"attempt": 1}, "retry": None})

    thrown = await link.ask_in_vain("fielded")
    assert (thrown["is_error"], thrown["name"], thrown["message"]) == (True, "Error", "it failed")
    assert thrown["props"] == {"code": 42, "detail": {"attempt": 1}, "retry": None}


async def test_plain_values_in_javascript(link: Link) -> None:
    thrown = await link.ask_in_vain("fail", "object")
    assert (thrown["is_error"], thrown["value"]) == (False, OBJECT)
    thrown = await link.ask_in_vain("fail", "null")
    assert (thrown["is_error"], thrown["message"]) == (True, "Error")


async def test_an_error_of_javascript_is_not_passed_on_to_it(link: Link, caplog: pytest.LogCaptureFixture) -> None:
    """Python's handler asks JavaScript back and lets its error through: not meant for the caller."""
    thrown = await link.ask_in_vain("ask", "fail", "error")
    assert thrown["message"] == "internal error"
    assert "it failed" in caplog.text
    # The other way round JavaScript passes the text on, and the code if it is told to.
    await link.agent.call("set", error_props=True)
    with pytest.raises(RemoteError, match=r"^it failed$") as raised:
        await link.peer.request("ask", "fail", "rpc")
    assert (raised.value.code, raised.value.data) == ("E_FAIL", {"attempt": 1})


async def test_codes_of_wsrpc_survive_the_way_through_javascript(link: Link) -> None:
    await link.agent.call("set", error_props=True)
    with pytest.raises(HandlerFailed, match=r"^internal error \[[0-9a-f]{8}\]$") as raised:
        await link.peer.request("ask", "fail", "internal")
    assert raised.value.error_id is not None
