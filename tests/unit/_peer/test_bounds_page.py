"""docs/reference/limits.md says of every bound what it is, and every bound has tests that exceed it."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from wsrpc import Limits

HERE = Path(__file__).parent
PAGE = (HERE.parents[2] / "docs" / "reference" / "limits.md").read_text("utf-8")
ROWS = re.findall(r"^\| `(\w+)` \| ([^|]+?) \| ([^|]+?) \| ([^|]+?) \|$", PAGE, re.MULTILINE)
UNITS = {"KiB": 1024, "MiB": 1024 * 1024, "s": 1.0, "": 1}

TESTS: dict[str, tuple[str, ...]] = {
    "message": (
        "test_a_message_that_is_too_big_closes_with_1009",
        "test_of_fragments_too_the_reason_names_the_limit_of_the_message",
        "test_another_wsrpc_side_refuses_to_send_what_is_too_big",
    ),
    "values": ("test_too_many_values_are_rejected_before_they_are_decoded",),
    "depth": (
        "test_nesting_that_is_too_deep_is_rejected",
        "test_nesting_of_more_than_512_closes_with_1007",
    ),
    "name": ("test_a_name_that_is_too_long_is_rejected",),
    "rate": ("test_above_the_rate_requests_are_overloaded_and_events_dropped",),
    "running": (
        "test_more_handlers_than_may_run_wait_for_a_place",
        "test_a_wsrpc_caller_waits_on_its_own_side_instead",
        "test_handlers_that_hold_more_bytes_than_may_be_wait",
        "test_open_channels_make_nobody_wait_and_one_that_would_hold_too_many_bytes_is_refused",
        "test_a_handler_that_turns_out_to_stream_and_holds_too_many_bytes_has_run",
        "test_a_handler_that_outlives_its_channel_holds_its_bytes_until_it_exits",
        "test_a_wsrpc_caller_waits_on_its_own_side_for_bytes_too",
    ),
    "waiting": ("test_past_those_that_may_wait_requests_are_overloaded_and_events_dropped",),
    "pending": ("test_more_pending_requests_than_may_be_raise",),
    "rooms": ("test_more_rooms_than_may_be_are_refused",),
    "timeout": ("test_a_request_that_is_not_answered_in_time_fails_and_is_cancelled",),
    "handler": ("test_a_handler_that_takes_longer_than_it_may_is_cancelled",),
    "open_handlers": ("test_open_handlers_hold_things_back_for_so_long",),
    "channels": ("test_more_channels_than_may_be_are_overloaded",),
    "unread": (
        "test_a_stream_that_nobody_begins_to_read_is_aborted",
        "test_a_channel_that_nobody_reads_is_aborted_unless_it_is_in_use",
    ),
    "unread_bytes": ("test_unread_messages_on_many_channels_take_so_much_memory_and_no_more",),
    "stream_window": (
        "test_the_producer_of_a_stream_waits_for_its_reader",
        "test_at_most_one_window_for_all_streams_is_ahead_of_an_answer",
    ),
    "stream_queue": ("test_a_producer_that_knows_no_flow_control_overflows_the_queue",),
    "sent_message": ("test_a_message_larger_than_may_be_sent_is_refused_here",),
    "high_water": (
        "test_above_the_high_water_mark_senders_wait_until_it_is_read",
        "test_an_answer_is_ahead_of_all_items_that_have_not_left_when_there_is_room_again",
    ),
    "hard_cap": ("test_at_the_hard_cap_emit_nowait_raises_and_an_answer_closes_with_4408",),
    "behind": ("test_broadcasts_that_a_slow_reader_has_not_got_are_dropped_as_the_policy_says",),
    "stall": ("test_a_full_connection_that_does_not_move_is_dropped",),
    "offline": ("test_more_than_may_wait_while_not_connected_is_refused",),
    "replay": ("test_what_is_not_acknowledged_is_bounded_and_acknowledging_nothing_is_stalling",),
    "open_timeout": (
        "test_an_opening_handshake_that_takes_too_long_is_dropped",
        "test_one_attempt_to_connect_that_takes_too_long_is_given_up",
    ),
    "ping_interval": ("test_a_ping_without_an_answer_ends_with_1011",),
    "ping_timeout": ("test_a_ping_without_an_answer_ends_with_1011",),
    "close_timeout": ("test_a_closing_handshake_that_takes_too_long_is_cut_off",),
}
"""The tests that exceed each bound on real sockets, beside a connection that has to continue."""

ALSO: dict[str, tuple[str, ...]] = {
    "arguments": ("test_too_many_arguments_are_rejected",),
    "malformed messages": ("test_what_begins_like_a_message_and_is_none_closes_with_1007",),
    "options of a server": (
        "test_a_session_without_a_connection_ends_in_time",
        "test_what_drains_for_too_long_is_closed_with_1012",
    ),
    "compression": ("test_compression_is_off_unless_asked_for_and_what_it_hides_counts",),
    "turns of the event loop": (
        "test_others_have_their_turn_after_a_bounded_number_of_messages",
        "test_a_read_takes_more_only_while_messages_are_large",
        "test_large_messages_among_small_ones_arrive_whole_and_in_order",
        "test_those_that_send_on_and_on_have_their_turns_one_after_another",
        "test_who_sends_little_is_not_behind_all_those_that_send_on_and_on",
        "test_a_crowd_that_connects_at_once_is_accepted_a_few_at_a_time",
        "test_a_crowd_that_asks_at_once_is_let_in_a_few_at_a_time",
    ),
    "memory after the end": ("test_a_connection_that_is_over_goes_without_the_garbage_collector",),
    "options of a client": (
        "test_a_first_connection_that_takes_too_long_fails",
        "test_a_client_that_is_cut_waits_as_its_policy_says",
    ),
}
"""Tests of bounds that are not fields of `Limits`."""


def value(text: str) -> float | None:
    """``64 KiB``, ``10,000``, ``20 s`` or ``None`` as the value that it stands for."""
    if text == "None":
        return None
    number, _, unit = text.replace(",", "").partition(" ")
    return int(number) * UNITS[unit]


def test_every_field_has_a_row_with_its_default() -> None:
    assert {field: value(default) for field, default, *_ in ROWS} == msgspec.structs.asdict(Limits())
    assert len(ROWS) == len(Limits.__struct_fields__), "each once"


def test_every_bound_has_tests_that_exist_and_every_test_has_its_bound() -> None:
    shared = {  # what all connections have in common
        HERE.parent / "_transports" / name for name in ("test_crowd.py", "test_read_fairness.py")
    }
    there = {
        name
        for path in {*HERE.glob("test_bounds_*.py"), *shared} - {Path(__file__)}
        for name in re.findall(r"^async def (test_\w+)", path.read_text("utf-8"), re.MULTILINE)
    }
    assert list(TESTS) == [field for field, *_ in ROWS], "as on the page"
    assert all(TESTS.values())
    assert {name for tests in (*TESTS.values(), *ALSO.values()) for name in tests} == there
