"""`Limits`: the documented defaults, and changed copies."""

from __future__ import annotations

import re
from typing import Any

import pytest

from wsrpc import Limits

DEFAULTS = {
    "message": 4 * 1024 * 1024,
    "sent_message": None,
    "values": 1280 * 1024,
    "depth": 64,
    "name": 256,
    "rate": None,
    "running": 1024,
    "waiting": 10_000,
    "pending": 10_000,
    "channels": 1024,
    "unread": 30.0,
    "stream_window": 512,
    "stream_queue": 1024 * 1024,
    "high_water": 64 * 1024,
    "hard_cap": 16 * 1024 * 1024,
    "offline": 256,
    "timeout": 60.0,
    "handler": None,
    "open_handlers": 10.0,
    "open_timeout": 10.0,
    "close_timeout": 5.0,
    "ping_interval": 20.0,
    "ping_timeout": 20.0,
}


@pytest.mark.parametrize(("field", "value"), DEFAULTS.items())
def test_defaults(field: str, value: float | None) -> None:
    assert getattr(Limits(), field) == value


FOLLOW: list[tuple[str, int, Limits, int]] = [
    ("running_bytes", 16 * 1024 * 1024, Limits(message=1_000_000), 4_194_304),
    ("running_bytes", 16 * 1024 * 1024, Limits(message=1_000_000, running=10), 4_000_000),
    ("waiting_bytes", 4 * 1024 * 1024, Limits(message=512), 2_560_000),
    ("waiting_bytes", 4 * 1024 * 1024, Limits(message=512, waiting=0), 512),
    ("stream_window_bytes", 256 * 1024, Limits(stream_window=100), 51_200),
    ("offline_bytes", 1024 * 1024, Limits(offline=1), 1024 * 1024),
    ("offline_bytes", 1024 * 1024, Limits(offline=2048), 2 * 1024 * 1024),
    ("replay_messages", 4096, Limits(replay=128 * 1024), 512),
]


@pytest.mark.parametrize(("name", "default", "limits", "value"), FOLLOW)
def test_limits_that_follow_from_others(name: str, default: int, limits: Limits, value: int) -> None:
    assert getattr(Limits(), name) == default
    assert getattr(limits, name) == value
    with pytest.raises(TypeError):
        limits.replace(**{name: value})


def test_replace_makes_a_changed_copy() -> None:
    limits = Limits(depth=5)
    other = limits.replace(name=10, timeout=None)
    assert (limits.depth, limits.name, limits.timeout) == (5, 256, 60.0)
    assert (other.depth, other.name, other.timeout) == (5, 10, None)
    assert limits == Limits(depth=5) and hash(limits) == hash(Limits(depth=5))


def test_limits_cannot_be_changed_in_place_or_misspelt() -> None:
    limits = Limits()
    with pytest.raises(AttributeError):
        limits.depth = 5  # type: ignore[misc]
    with pytest.raises(TypeError):
        Limits(dpeth=5)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        limits.replace(dpeth=5)
    with pytest.raises(TypeError):
        Limits(5)  # type: ignore[call-arg]


def test_a_copy_is_checked_like_the_original() -> None:
    with pytest.raises(ValueError, match=r"Limits\.depth must be at least 2, got 0: every message"):
        Limits().replace(depth=0)
    with pytest.raises(ValueError, match=r"Limits\.hard_cap"):
        Limits(hard_cap=-5)


def test_bounds_with_which_nobody_could_talk_are_refused_with_the_reason() -> None:
    with pytest.raises(
        ValueError, match=r"^Limits\.message must be at least 512, got 150: the hello of another wsrpc peer"
    ):
        Limits(message=150)
    with pytest.raises(ValueError, match=r"^Limits\.depth must be at least 2, got 1: every message is an object"):
        Limits(depth=1)
    with pytest.raises(ValueError, match=r"^Limits\.values must be at least 64, got 63: an error has some 20"):
        Limits(values=63)
    assert Limits(message=512, depth=2, values=64).depth == 2


def test_a_bound_that_is_none_is_refused_where_it_is_given() -> None:
    wrong: Any
    for field in DEFAULTS.keys() - {"sent_message", "rate", "timeout", "handler", "ping_interval", "ping_timeout"}:
        for wrong in (None, "7", True):
            with pytest.raises(
                TypeError, match=rf"^Limits\.{field} is a (whole number|number of seconds), got {wrong!r}$"
            ):
                Limits(**{field: wrong})
    for wrong in (1.5, float("inf")):
        with pytest.raises(TypeError, match=r"^Limits\.message is a whole number, got "):
            Limits(message=wrong)
    with pytest.raises(TypeError, match=r"^Limits\.timeout is a number of seconds, or None, got '5'$"):
        Limits(timeout="5")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^Limits\.handler is a number of seconds, or None, got '5'$"):
        Limits(handler="5")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^Limits\.handler is a duration of more than 0 seconds, got 0$"):
        Limits(handler=0)
    with pytest.raises(ValueError, match=r"^Limits\.stall is a duration of more than 0 seconds, got nan$"):
        Limits(stall=float("nan"))
    assert Limits(stall=5, timeout=None, close_timeout=float("inf")).stall == 5


def test_a_rate_is_a_whole_number_of_at_least_1_or_none() -> None:
    assert Limits(rate=1).rate == 1 and Limits(rate=100).replace(rate=None).rate is None
    wrong: Any
    for wrong in (0.5, 10.0, "10", True, (10, 20), float("inf")):
        with pytest.raises(
            TypeError, match=rf"^Limits\.rate is a whole number, or None, got {re.escape(repr(wrong))}$"
        ):
            Limits(rate=wrong)
    for wrong in (0, -1):
        with pytest.raises(
            ValueError,
            match=rf"^Limits\.rate must be at least 1, got {wrong}: it counts requests and events per second; None: no",
        ):
            Limits(rate=wrong)
