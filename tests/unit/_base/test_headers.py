"""Names of headers ignore case: in a `Handshake`, in responses and in `wsrpc.testing`."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsrpc import Handshake, HandshakeRejected
from wsrpc.adapting import joined_headers
from wsrpc.headers import Headers, ResponseHeaders
from wsrpc.transport import ConnectionInfo


def in_a_response(headers: Mapping[str, str]) -> Mapping[str, str]:
    handshake = Handshake("/", {})
    handshake.response_headers |= headers
    return handshake.response_headers


PLACES: list[Callable[[Mapping[str, str]], Mapping[str, str]]] = [
    lambda headers: Handshake("/", headers).headers,
    lambda headers: ConnectionInfo(headers=headers).headers,
    joined_headers,
    in_a_response,
]


@pytest.mark.parametrize("place", PLACES)
async def test_a_header_is_found_by_its_name_in_any_case(
    place: Callable[[Mapping[str, str]], Mapping[str, str]],
) -> None:
    headers = place({"X-Team": "red", "cookie": "a=1"})
    assert headers["X-Team"] == headers["x-team"] == headers.get("X-TEAM") == "red"
    assert "X-TEAM" in headers and "x-no" not in headers
    assert headers.get("x-no", "none") == "none"
    with pytest.raises(KeyError):
        headers["X-No"]
    assert list(headers) == ["x-team", "cookie"]
    assert {**headers} == {"x-team": "red", "cookie": "a=1"}
    assert headers == {"COOKIE": "a=1", "X-Team": "red"} and headers == place(headers)
    assert headers not in ({"X-Team": "red"}, {"X-Team": "red", "cookie": None}, {5: "red", "cookie": "a=1"}, 5)
    if place is not in_a_response:
        assert place({"X-Team": "red", "x-team": "blue", "X-TEAM": ""})["x-team"] == "red, blue, "
    for copied in (copy.copy(headers), copy.deepcopy(headers), pickle.loads(pickle.dumps(headers))):
        assert copied == headers and copied["X-Team"] == "red"
    wrong: Any = {5: "red"}
    with pytest.raises((TypeError, ValueError), match=r"the name of a header is .*, got 5"):
        place(wrong)


NAMES = st.sampled_from(["A", "a", "X-Team", "x-team", "X-TEAM", "b"])


LISTS = st.lists(st.tuples(NAMES, st.sampled_from(["1", "2", ""])))


@given(LISTS, LISTS)
def test_headers_in_a_list_of_pairs_may_be_repeated(
    first: list[tuple[str, str]], second: list[tuple[str, str]]
) -> None:
    refused = HandshakeRejected(401, headers=first).headers
    assert sorted(refused.pairs()) == sorted((name.lower(), value) for name, value in first)
    for name, _ in first:
        values = [value for other, value in first if other.lower() == name.lower()]
        assert refused.get_all(name) == values and refused[name] == ", ".join(values)
    # Those of `second` replace all of the same name, and none is replaced by another of its own list.
    headers = Handshake("/", {}).response_headers
    for name, value in first:
        headers.add(name, value)
    kept = [(name, value) for name, value in headers.pairs() if name not in {other.lower() for other, _ in second}]
    headers |= second
    assert sorted(headers.pairs()) == sorted([*kept, *((name.lower(), value) for name, value in second)])


@pytest.mark.parametrize("made", [Headers, ResponseHeaders])
def test_headers_are_made_of_a_mapping_too(made: type[Headers]) -> None:
    """Names of two letters are not pairs of letters."""
    assert dict(made({"TE": "trailers", "ab": "value"})) == {"te": "trailers", "ab": "value"}
    assert made(made([("a", "1"), ("A", "2")])).get_all("a") == ["1", "2"]
    assert made() == made({}) == made([]) == {}


@pytest.mark.parametrize("wrong", [[("a",)], ["ab"], [5], "ab"], ids=repr)
async def test_what_is_no_list_of_pairs_is_refused(wrong: Any) -> None:
    for place in (Handshake("/", {}).response_headers.__or__, Headers):
        with pytest.raises(TypeError, match="headers are a mapping of names to values, or a list of pairs"):
            place(wrong)
    with pytest.raises(ValueError, match="has a character that cannot be sent"):
        Handshake("/", {}).response_headers.add("Set-Cookie", "a\nb")


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        ("/a%2Fb%20%C3%BC", "/a/b ü", {}),
        ("/%zz%ff", "/%zz\ufffd", {}),
        ("/a?b=%3D&c&b=?&=d", "/a", {"b": ["=", "?"], "c": [""], "": ["d"]}),
        ("/\udcc3\udcbc\udcff \x1b", "/ü\ufffd \x1b", {}),  # bytes that a library could not decode
        ("/a+b?a+b=c+d", "/a+b", {"a b": ["c d"]}),
    ],
)
def test_the_target_of_a_request(target: str, path: str, query: dict[str, list[str]]) -> None:
    handshake = Handshake(target, {})
    info = handshake.connection_info()
    assert info.target == handshake.target and handshake.target.isascii() and " " not in handshake.target
    if target.isascii() and target.isprintable():
        assert handshake.target == target
    for told in (handshake, info):
        assert told.path == path
        assert {name: told.query.get_all(name) for name in told.query} == query
        assert dict(told.query) == told.query == {name: values[-1] for name, values in query.items()}
        assert told.query.get("no") is None and told.query.get_all("no") == []
