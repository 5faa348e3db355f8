"""The exception tree: what is what, what it says, and that it can travel between processes."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import wsrpc
from wsrpc import errors
from wsrpc._base.retry import may_have_run
from wsrpc.testing import pair

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "reference" / "errors.md").read_text("utf-8")

PARENTS: dict[str, tuple[type[BaseException], ...]] = {
    "ConnectionLost": (errors.WsrpcError, ConnectionError),
    "SessionLost": (errors.ConnectionLost,),
    "EngineLost": (errors.ConnectionLost,),
    "PeerNotFound": (errors.ConnectionLost,),
    "ConnectFailed": (errors.WsrpcError, ConnectionError),
    "HandshakeRejected": (errors.WsrpcError, ConnectionError),
    "RequestTimeout": (errors.WsrpcError, TimeoutError),
    "RpcError": (errors.WsrpcError,),
    "RemoteError": (errors.RpcError,),
    "BadArguments": (errors.RemoteError,),
    "UnknownEvent": (errors.RemoteError,),
    "Overloaded": (errors.RemoteError,),
    "Draining": (errors.RemoteError,),
    "HandlerFailed": (errors.RemoteError,),
    "HandlerTimeout": (errors.RemoteError,),
    "ReservedEvent": (errors.WsrpcError, ValueError),
}


def all_errors() -> list[type[Any]]:
    return [value for name in errors.__all__ if isinstance(value := getattr(errors, name), type)]


def test_the_tree() -> None:
    for cls in all_errors():
        assert issubclass(cls, errors.WsrpcError)
        expected = PARENTS.get(cls.__name__, (errors.WsrpcError,))
        if cls is not errors.WsrpcError:
            assert cls.__bases__ == expected, cls
        assert getattr(wsrpc.errors, cls.__name__) is cls
        assert cls.__doc__


def test_the_drawing_names_them_all() -> None:
    assert errors.__doc__ is not None
    drawn = set(re.findall(r"\b[A-Z][A-Za-z]+\b", errors.__doc__.partition("::")[2]))
    assert {cls.__name__ for cls in all_errors()} <= drawn


def test_the_page_has_a_row_for_each() -> None:
    names = {cls.__name__ for cls in all_errors()}
    rows = re.findall(r"^\| \[`(\w+)`\]\[wsrpc\.(?:errors\.)?(\w+)\] \|", PAGE, re.MULTILINE)
    assert all(shown == linked for shown, linked in rows)
    assert sorted(shown for shown, _ in rows) == sorted(names - {"WsrpcError", "RpcError"}), "each once"


def test_the_page_says_as_retries_do_after_which_rejections_the_handler_has_run() -> None:
    rejections = PAGE.partition("### Rejections\n")[2].partition("\n### ")[0]
    rows = re.findall(r"^\| \[`(\w+)`\]\S+ \|[^|]+\| (\w+)", rejections, re.MULTILINE)
    classes = [cls for cls in all_errors() if issubclass(cls, errors.RemoteError)]
    assert dict(rows) == {cls.__name__: "yes" if may_have_run(cls("")) else "no" for cls in classes}


def test_the_page_has_every_code() -> None:
    """``wsrpc.websockets`` is the name of a logger."""
    rows = re.findall(r"^\| `(wsrpc\.\w+)` \| (?:`(\w+)`|none) \|", PAGE, re.MULTILINE)
    sources = (path.read_text("utf-8") for path in (ROOT / "wsrpc").rglob("*.py"))
    true = dict.fromkeys({code for text in sources for code in re.findall(r'"(wsrpc\.[a-z_]+)"', text)}, "RemoteError")
    true.update((cls.code, cls.__name__) for cls in all_errors() if issubclass(cls, errors.RemoteError) and cls.code)
    del true["wsrpc.websockets"]
    assert dict(rows) == true | {"wsrpc.closed": ""}


EXAMPLES: list[errors.WsrpcError] = [
    errors.ConnectionLost(1001, "away", "not_sent"),
    errors.ConnectionLost(),
    errors.SessionLost(4409, "fenced"),
    errors.PeerNotFound("user/42"),
    errors.ConnectFailed(3, OSError("refused")),
    errors.HandshakeRejected(401, "bad token"),
    errors.RequestTimeout("add", 1.5),
    errors.RpcError("no", "code", {"k": [1]}),
    errors.RpcError.of_value([1, 2]),
    errors.RemoteError("no", 5, None, {"name": "TypeError"}),
    errors.BadArguments("no", "wsrpc.bad_arguments"),
    errors.HandlerFailed("internal error", "wsrpc.internal", None, {"error_id": "ab12"}),
    errors.BadResult("odd"),
    errors.MessageTooBig("big"),
    errors.ReservedEvent("open"),
    errors.ChannelClosed("room", "bored"),
    errors.QueueFull("full"),
    errors.PeerError("peer", "lost"),
    errors.ProtocolError("odd"),
]


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_they_can_be_pickled_and_copied(error: errors.WsrpcError) -> None:
    for back in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(back) is type(error)
        assert str(back) == str(error)
        state = {k: v for k, v in vars(error).items() if k != "last_error"}
        assert {k: v for k, v in vars(back).items() if k != "last_error"} == state


async def test_that_of_a_stream_can_be_pickled_and_does_not_take_the_connection_along() -> None:
    async with pair() as (left, right):
        right.on("numbers", lambda: iter(["one"]))
        with pytest.raises(errors.BadResult) as caught:
            async with left.stream("numbers", returns=int) as numbers:
                await anext(numbers)
    back = pickle.loads(pickle.dumps(caught.value))
    assert str(back) == str(caught.value)


def test_private_notes_travel_with_a_pickled_error() -> None:
    notes: list[tuple[errors.WsrpcError, Callable[[Any], bool]]] = [
        (errors.made_here(errors.RemoteError("no")), errors.is_made_here),
        (errors.closed_here(errors.ConnectionLost()), errors.is_closed_here),
        (errors.event_timeout("e", 1), lambda error: str(error) == "no event 'e' within 1 s"),
        (
            errors.redirect_not_followed(errors.HandshakeRejected(302), "too far"),
            lambda error: str(error).endswith("HTTP 302, a redirect that is not followed: too far"),
        ),
    ]
    for error, is_noted in notes:
        assert is_noted(error) and is_noted(pickle.loads(pickle.dumps(error)))
    assert not errors.is_made_here(errors.RemoteError("no"))
    bad = errors.bad_item("an item", channel := object())
    assert errors.channel_of(bad) is channel and errors.channel_of(pickle.loads(pickle.dumps(bad))) is None


def test_what_they_say() -> None:
    lost = errors.ConnectionLost(1001, "away", "not_sent")
    assert str(lost) == "there is no connection (1001 away); nothing was sent"
    assert str(errors.ConnectionLost(1006)) == ("the connection ended (1006); requests in flight may have run")
    assert str(errors.ConnectFailed(1, None)) == "could not connect in 1 attempt"
    assert str(errors.ConnectFailed(2, OSError("refused"))) == (
        "could not connect in 2 attempts; the last one: OSError: refused"
    )
    assert str(errors.ConnectFailed(1, ConnectionResetError())) == (
        "could not connect in 1 attempt; the last one: ConnectionResetError"
    )
    assert str(errors.HandshakeRejected(401)) == "the server refused the connection with HTTP 401"
    assert str(errors.RequestTimeout("add", 60.0)) == "no response to 'add' within 60 s"
    assert str(errors.ChannelClosed("room")) == "channel 'room' is closed"
    assert str(errors.ChannelClosed("room", "x" * 1000)).endswith("…")


def test_a_value_that_was_thrown() -> None:
    assert str(errors.RpcError.of_value("text")) == "text"
    assert str(errors.RemoteError.of_value({"k": 1})) == "rejected with {'k': 1}"
    assert len(str(errors.RemoteError.of_value(["x"] * 1000))) < 300
    default = errors.RemoteError.of_value(None)
    assert (default.message, default.plain, default.data) == ("Error", False, None)
    assert type(errors.RemoteError.of_value(5)) is errors.RemoteError


@pytest.mark.parametrize("code", ["wsrpc.", "wsrpc.bad_arguments", "wsrpc.anything"])
def test_wsrpcs_own_codes_are_refused(code: str) -> None:
    with pytest.raises(ValueError, match="are reserved"):
        errors.RpcError("x", code)
    assert errors.RpcError("x", "wsrpc").code == "wsrpc"
    assert errors.RpcError("x", 0).code == 0


@pytest.mark.parametrize("cls", [errors.RpcError, errors.RemoteError])
def test_fields_are_read_only_and_a_copy(cls: type[errors.RpcError]) -> None:
    given = {"k": 1}
    error = cls("no", fields=given)
    given["k"] = 2
    assert error.fields == {"k": 1}
    with pytest.raises(TypeError):
        error.fields["k"] = 3  # type: ignore[index]
    assert pickle.loads(pickle.dumps(error)).fields == {"k": 1}


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("message", "give it as message"),
        ("code", "give it as code="),
        ("data", "give it as data="),
        ("name", "JavaScript"),
        ("stack", "JavaScript"),
        ("__proto__", "JavaScript"),
    ],
)
def test_fields_that_are_not_for_users(name: str, why: str) -> None:
    with pytest.raises(ValueError, match=f"an error cannot have the field '{name}': .*{why}"):
        errors.RpcError("no", fields={name: 1})
    assert errors.RemoteError("no", fields={name: 1}).fields == {name: 1}  # what came is shown as it came


def test_names_of_fields_are_text() -> None:
    fields: Any = {5: 1}
    with pytest.raises(TypeError, match="the name of an error field must be text, got 5"):
        errors.RpcError("no", fields=fields)


def test_an_error_of_a_class_of_ones_own_has_no_fields_unless_given() -> None:
    class Mine(errors.RpcError):
        def __init__(self) -> None: ...

    assert Mine().fields == {}


@pytest.mark.parametrize(("value", "expected"), [("ab", "ab"), (5, None), (None, None), ([], None)])
def test_an_error_id_is_text_or_none(value: Any, expected: str | None) -> None:
    assert errors.HandlerFailed("x", "wsrpc.internal", None, {"error_id": value}).error_id == expected
    assert errors.HandlerFailed("x").error_id is None
