"""Tests of the transport contract that do not fit ASGI, and why: what is behind an ASGI server is its own."""

from __future__ import annotations

WRITES = "each message is a write of its own: ASGI has no way to send two"
EARLY = "the server drops what comes together with the request, before its answer, which RFC 6455 forbids"
NOT_SEEN = "the server answers a Close frame by itself, or sends ours, and does not say whether the other side did"
WORDING = "what breaks the rules is judged by the server, with its own codes, and ends before the application is told"
PINGS = "the server pings, or not, as it is configured"
PIECES = "pieces are kept until the last one comes; counted as unsent, they would hold that up"
TURNS = "on 3.11 a message above the high-water mark is always unsent for a turn"

ASGI = {
    "test_what_one_turn_sends_is_written_together": WRITES,
    "test_what_several_tasks_send_in_one_turn_is_written_together": WRITES,
    "test_what_one_read_causes_is_written_together": WRITES,
    "test_what_arrived_before_start_is_delivered_in_it": EARLY,
    "test_messages_then_drop_before_start": EARLY,
    "test_pause_and_resume": TURNS,
    "test_a_violation_ends_the_connection": WORDING,
    "test_a_close_reason_that_is_not_utf_8": WORDING,
    "test_fragments_that_add_up_to_too_much_close_with_1009": WORDING,
    "test_a_frame_that_claims_to_be_huge_closes_before_it_comes": WORDING,
    "test_a_ping_that_nobody_answers_ends_the_connection": PINGS,
    "test_a_ping_that_is_answered_keeps_the_connection": PINGS,
    "test_an_idle_line": PINGS,
    "test_a_line_that_is_found_dead_takes_nothing_any_more": PINGS,
    "test_a_line_on_which_sending_never_stops": PINGS,
    "test_a_line_whose_buffer_in_the_system_never_fills": PINGS,
    "test_a_line_that_is_dead_in_one_direction": PINGS,
    "test_a_wrong_answer": PINGS,
    "test_a_slow_reader_is_kept": PINGS,
    "test_without_a_timeout_nobody_need_answer": PINGS,
    "test_pings_keep_their_place_among_messages": PINGS,
    "test_no_pings_while_closing": PINGS,
    "test_a_line_that_is_filled_until_it_is_full": PINGS,
    "test_whoever_sends_no_more_and_reads_nothing": PINGS,
    "test_a_paused_connection_is_not_taken_for_a_dead_one": PINGS,
    "test_pieces_count_as_unsent_and_fill_the_line": PIECES,
}

UVICORN = {
    **ASGI,
    "test_close_that_is_never_answered_ends_by_dropping": NOT_SEEN,
    "test_messages_that_cross_our_close_frame_still_arrive": NOT_SEEN,
}

CODES = "hypercorn does not tell the application which code the other side closed with"
ABORTS = "hypercorn closes with 1011 where an application ends"
QUEUE = "hypercorn hands on ten messages at once"

HYPERCORN = {
    **ASGI,
    "test_both_sides_learn_code_and_reason": CODES,
    "test_the_code_the_other_side_gives": CODES,
    "test_a_close_frame_without_a_code": CODES,
    "test_messages_then_a_clean_close_before_start": CODES,
    "test_messages_then_close_before_start": CODES,
    "test_their_close_after_which_the_connection_stays_ends_by_dropping": CODES,
    "test_a_piece_for_a_connection_that_is_over_is_refused": CODES,
    "test_abort_drops": ABORTS,
    "test_abort_from_within_receive": ABORTS,
    "test_abort_in_one_go_with_sending": ABORTS,
    "test_read_ended_is_called_once_a_read": QUEUE,
    "test_read_ended_follows_the_messages": QUEUE,
}
