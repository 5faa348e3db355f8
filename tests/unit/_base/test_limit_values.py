"""`Limits`: values that are refused, limits that follow from others, and changed copies. The defaults are on a page."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from wsrpc import Limits, Quotas, Rate, Server

MAY_BE_NONE = {"sent_message_bytes", "rate", "request_timeout", "handler_timeout", "ping_interval", "ping_timeout"}


@pytest.mark.parametrize(
    ("name", "default", "limits", "value"),
    [
        ("running_bytes", 16 * 1024 * 1024, Limits(message_bytes=1_000_000, running=10), 4_000_000),
        ("running_bytes", 16 * 1024 * 1024, Limits(message_bytes=512, running=10_000), 40_960_000),
        ("waiting_bytes", 4 * 1024 * 1024, Limits(message_bytes=512, waiting=0), 512),
        ("stream_window_bytes", 256 * 1024, Limits(stream_window=100), 51_200),
        ("stream_queue_bytes", 1024 * 1024, Limits(hard_cap_bytes=1600), 100),
        ("behind_bytes", 1024 * 1024, Limits(hard_cap_bytes=1600), 100),
        ("offline_bytes", 1024 * 1024, Limits(offline=2048), 2 * 1024 * 1024),
        ("replay_messages", 4096, Limits(replay_bytes=128 * 1024), 512),
    ],
)
def test_limits_that_follow_from_others(name: str, default: int, limits: Limits, value: int) -> None:
    assert getattr(Limits(), name) == default
    assert getattr(limits, name) == value
    with pytest.raises(TypeError):
        limits.replace(**{name: value})


def test_replace_makes_a_changed_copy_and_nothing_changes_in_place() -> None:
    limits = Limits(depth=5)
    assert limits.replace(rooms=10, request_timeout=None) == Limits(depth=5, rooms=10, request_timeout=None)
    assert limits == Limits(depth=5) and hash(limits) == hash(Limits(depth=5))
    with pytest.raises(AttributeError):
        limits.depth = 6  # type: ignore[misc]


@pytest.mark.parametrize(
    ("field", "value", "error", "says"),
    [
        ("message_bytes", 511, ValueError, "must be at least 512, got 511: the hello of .* has to pass; .*max_size="),
        ("depth", 1, ValueError, "must be at least 2, got 1: every message is an object"),
        ("depth", 513, ValueError, "must be at most 512, got 513: no peer sends deeper values"),
        ("values", 63, ValueError, "must be at least 64, got 63: an error has some 20"),
        ("rate", 0, ValueError, r"is a Rate, or a number per second from 1e-06 to 1e\+12, got 0"),
        ("replay_bytes", 1, ValueError, "must be at least 131072, got 1"),
        ("handler_timeout", 0, ValueError, "is a duration of more than 0 seconds, got 0"),
        ("stall_timeout", math.nan, ValueError, "is a duration of more than 0 seconds, got nan"),
        ("message_bytes", 1.5, TypeError, "is a whole number, got 1.5"),
    ],
)
def test_values_that_make_no_sense_are_refused_with_the_reason(
    field: str, value: Any, error: type[Exception], says: str
) -> None:
    for make in (Limits, Limits().replace):
        with pytest.raises(error, match=rf"^Limits\.{field} {says}"):
            make(**{field: value})


@pytest.mark.parametrize("field", Limits.__struct_fields__)
def test_each_field_refuses_what_is_no_number(field: str) -> None:
    for value in ("7", True, *[None] * (field not in MAY_BE_NONE)):
        with pytest.raises(
            TypeError, match=rf"^Limits\.{field} is a (whole number|number of seconds|Rate, or a number)"
        ):
            Limits().replace(**{field: value})
    if field in MAY_BE_NONE:
        assert getattr(Limits().replace(**{field: None}), field) is None


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        *(("count", value, ValueError) for value in (0, -1, math.nan, math.inf, 10**400)),
        *(("per", value, ValueError) for value in (0, -60, math.nan, math.inf)),
        *(("burst", value, ValueError) for value in (0.5, 0, math.nan, math.inf)),
        *((field, value, TypeError) for field in ("count", "per", "burst") for value in (True, "20/min", [5])),
        *((field, None, TypeError) for field in ("count", "per")),
    ],
)
def test_a_rate_that_makes_no_sense_is_refused(field: str, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=rf"^Rate\({field}=\) is a number from (1e-06|1) to 1e\+12, got "):
        Rate(**{"count": 5, field: value})


@pytest.mark.parametrize("value", [0, math.nan, math.inf, True, "20/min", (20, 60)])
def test_each_option_that_takes_a_rate_names_itself_and_both_forms(value: Any) -> None:
    takes: dict[str, Callable[[], object]] = {
        "Limits.rate": lambda: Limits(rate=value),
        "requests=": lambda: Quotas(requests=value),
        "bytes=": lambda: Quotas(bytes=value),
        "rate=": lambda: Server().on("add", print, rate=value),
    }
    for option, make in takes.items():
        with pytest.raises(
            (TypeError, ValueError), match=rf"^{option} is a Rate, or a number per second from 1e-06 to .*, got "
        ):
            make()
