"""The exception tree: what is what, what it says, and that it can travel between processes."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wsrpc import errors
from wsrpc._base.retry import may_have_run

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "reference" / "errors.md").read_text("utf-8")

PARENTS: dict[type[BaseException], list[type[Exception]]] = {
    ConnectionError: [errors.ConnectionLost, errors.ConnectFailed, errors.HandshakeRejected],
    TimeoutError: [errors.RequestTimeout],
    ValueError: [errors.ReservedEvent],
    errors.ConnectionLost: [errors.SessionLost, errors.EngineLost, errors.PeerNotFound],
    errors.RpcError: [errors.RemoteError],
    errors.RemoteError: [errors.BadArguments, errors.UnknownEvent, errors.Overloaded, errors.HandlerFailed],
}


def all_errors() -> list[type[Any]]:
    return [cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, errors.WsrpcError)]


def test_the_tree() -> None:
    assert all(issubclass(cls, errors.WsrpcError) and cls.__doc__ for cls in all_errors())
    for parent, children in PARENTS.items():
        assert [cls for cls in children if not issubclass(cls, parent)] == []


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


def test_each_error_of_a_call_has_the_outcome_that_the_page_says() -> None:
    """As the errors of the TypeScript client do."""
    table = re.compile(r"^\| exception \| raised if \| handler has run \|.*?\n\n", re.MULTILINE | re.DOTALL)
    rows = [row.split("|") for found in table.finditer(PAGE) for row in found[0].splitlines()[2:] if row]
    told = {re.findall(r"`(\w+)`", row[1])[0]: row[3].strip() for row in rows}
    outcomes = {"not_sent": ("no",), "not_run": ("no",), "ran": ("yes",), "unknown": ("unknown", "yes, in part")}
    classes = [cls for cls in all_errors() if cls.__name__ in told and not issubclass(cls, errors.ConnectionLost)]
    classes.remove(errors.RequestTimeout)  # it, and `ConnectionLost`, have the outcome of each call
    assert len(classes) > 15
    for cls in classes:
        assert told[cls.__name__].startswith(outcomes[cls.outcome]), cls


def test_the_page_has_every_code() -> None:
    """``wsrpc.websockets`` is the name of a logger, and ``wsrpc.resume`` a subprotocol."""
    rows = re.findall(r"^\| `(wsrpc\.\w+)` \| (?:`(\w+)`|none) \|", PAGE, re.MULTILINE)
    sources = (path.read_text("utf-8") for path in (ROOT / "wsrpc").rglob("*.py"))
    true = dict.fromkeys({code for text in sources for code in re.findall(r'"(wsrpc\.[a-z_]+)"', text)}, "RemoteError")
    true.update((cls.code, cls.__name__) for cls in all_errors() if issubclass(cls, errors.RemoteError) and cls.code)
    del true["wsrpc.websockets"], true["wsrpc.resume"]
    assert dict(rows) == true | {"wsrpc.closed": ""}


def refused_at(shown_url: str) -> errors.HandshakeRejected:
    error = errors.HandshakeRejected(401, "no")
    error.shown_url = shown_url
    return error


EXAMPLES: list[tuple[errors.WsrpcError, str]] = [
    (errors.ConnectionLost(1001, "away", "not_sent"), "there is no connection (1001 away); nothing was sent"),
    (errors.PeerNotFound("user/42"), "no node of the cluster has a peer with the address 'user/42'"),
    (errors.PeerNotFound("user/42", 0.5), "no peer with the address 'user/42' was there, and not busy, within 0.5 s"),
    (errors.ConnectFailed(2, OSError("no")), "could not connect in 2 attempts; the last one: OSError: no"),
    (errors.HandshakeRejected(401), "the server refused the connection with HTTP 401"),
    (refused_at("'ws://a/…'"), "the server at 'ws://a/…' refused the connection with HTTP 401: no"),
    (errors.RequestTimeout("add", 60.0), "no response to 'add' within 60 s"),
    (errors.RpcError("no", "code", {"k": [1]}, fields={"k": 1}), "no"),
    (errors.RemoteError.of_value({"k": 1}), "rejected with {'k': 1}"),
    (errors.HandlerFailed("internal error", "wsrpc.internal", None, {"error_id": "ab12"}), ""),
    (errors.ChannelClosed("room"), "channel 'room' is closed"),
    (errors.PeerError("peer", "lost"), ""),
]


@pytest.mark.parametrize(("error", "text"), EXAMPLES)
def test_what_they_say_and_that_they_can_be_pickled_and_copied(error: errors.WsrpcError, text: str) -> None:
    assert text in ("", str(error))
    for back in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(back) is type(error)
        assert (str(back), repr(back)) == (str(error), repr(error))
        state = {k: v for k, v in vars(error).items() if k != "last_error"}
        assert {k: v for k, v in vars(back).items() if k != "last_error"} == state


def test_private_notes_travel_with_a_pickled_error() -> None:
    notes: list[tuple[errors.WsrpcError, Callable[[Any], bool]]] = [
        (errors.made_here(errors.RemoteError("no")), errors.is_made_here),
        (errors.closed_here(errors.ConnectionLost()), errors.is_closed_here),
        (errors.event_timeout("e", 1), lambda error: str(error) == "no event 'e' within 1 s"),
    ]
    for error, is_noted in notes:
        assert is_noted(error) and is_noted(pickle.loads(pickle.dumps(error)))
    assert not errors.is_made_here(errors.RemoteError("no"))
    bad = errors.bad_item("an item", channel := object())  # which does not take the connection along
    assert errors.channel_of_item(bad) is channel and errors.channel_of_item(pickle.loads(pickle.dumps(bad))) is None


def test_wsrpcs_own_codes_are_refused() -> None:
    with pytest.raises(ValueError, match="are reserved"):
        errors.RpcError("x", "wsrpc.anything")
    assert errors.RpcError("x", "wsrpc").code == "wsrpc"
    assert errors.RpcError("x", 0).code == 0


def test_fields_are_read_only_and_a_copy() -> None:
    given = {"k": 1}
    error = errors.RemoteError("no", fields=given)
    given["k"] = 2
    assert error.fields == {"k": 1}
    with pytest.raises(TypeError):
        error.fields["k"] = 3  # type: ignore[index]


@pytest.mark.parametrize(("name", "why"), [("message", "give it as message"), ("name", "JavaScript")])
def test_fields_that_are_not_for_users(name: str, why: str) -> None:
    with pytest.raises(ValueError, match=f"an error cannot have the field '{name}': .*{why}"):
        errors.RpcError("no", fields={name: 1})
    assert errors.RemoteError("no", fields={name: 1}).fields == {name: 1}  # what came is shown as it came
    wrong: Any = {5: 1}
    with pytest.raises(TypeError, match="the name of an error field must be text, got 5"):
        errors.RpcError("no", fields=wrong)
