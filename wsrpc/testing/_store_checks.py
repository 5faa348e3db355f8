"""`STORE_CHECKS`: the contract of `wsrpc.store`, against which any store can be held."""

from __future__ import annotations

import asyncio
import math
from contextlib import suppress
from functools import partial

from ..store import LogGone, LogState, Page, Store, StoreFull
from ._store_list_checks import LIST_CHECKS
from ._store_move_checks import MOVE_CHECKS
from ._store_tools import (
    AN_HOUR,
    LATER,
    SOON,
    Check,
    Connect,
    add,
    add_own,
    checks_in,
    end,
    entries_of,
    new_log,
    page_of,
    raises,
    state_of,
    until,
)

# ---------------------------------------------------------------- keys and leases


async def of_many_that_open_a_log_one_gets_its_own(connect: Connect) -> None:
    stores = [connect() for _ in range(3)]
    logs = [new_log(f"id{number}", arguments=f"[{number}]") for number in range(60)]
    states = await asyncio.gather(*(stores[number % 3].open("k", log) for number, log in enumerate(logs)))
    [winner] = {state.id for state in states}
    [log] = [log for log in logs if log.id == winner]
    assert {state.arguments for state in states} == {log.arguments}
    state = await stores[1].open("k", log)
    assert state == LogState(winner, log.arguments, 1, 0, None, 0, False)
    assert (await stores[0].open("k2", new_log("other"))).id == "other"


async def a_lease_lapses_and_each_sign_of_life_renews_it(connect: Connect) -> None:
    ours, theirs = connect(lease=SOON), connect(lease=SOON)
    await ours.open("k", new_log("a"))

    async def add_another() -> bool:
        number = (await page_of(ours)).state.last + 1
        return (await add_own(ours, number, b"x")).lost

    async def repeat() -> bool:
        return (await add_own(ours, (await page_of(ours)).state.last, b"x")).lost

    async def hold() -> bool:
        return (await ours.hold("p", {"k": "a"}, {}))["k"].lost

    for sign in (add_another, repeat, hold):
        lost = await until(partial(state_of, theirs), lambda state: state is not None and state.lost)
        assert lost is not None and (lost.id, lost.end) == ("a", None)
        assert (await theirs.open("k", new_log("b"))).id == "a"
        repeated = await ours.open("k", new_log("a"))
        assert (repeated.id, repeated.lost) == ("a", True), "it changes nothing"
        await until(sign, lambda lost: not lost)  # a slow answer may come when the lease is over again
    await until(partial(state_of, theirs), lambda state: state is not None and state.lost)
    await end(theirs, b"end", only_if_lost=True)
    state = (await ours.hold("p", {"k": "a"}, {}))["k"]
    assert (state.end, state.lost) == (b"end", False)


async def _is_forgotten(connect: Connect, ended: bool) -> None:
    store = connect(lease=SOON)
    await store.open("k", new_log("a", keep=LATER))
    with suppress(LogGone):  # on a busy machine, it may be forgotten by now
        await add_own(store, 1, b"old")
    await store.hold("q", {}, {"k": 1})

    async def page() -> Page | None:
        if ended:
            with suppress(LogGone):
                await end(store, b"")  # repeated, it changes nothing
        return await store.read("k", 0)

    await until(page, lambda page: page is None)
    assert await store.hold("p", {"k": "a"}, {"k": 1}) == {}
    for call in (add_own(store, 2, b"x"), end(store, b"")):
        with raises(LogGone):
            await call
    state = await store.open("k", new_log("b"))
    assert (state.id, state.last, state.readers) == ("b", 0, 0)
    with raises(LogGone):
        await add_own(store, 1, b"x")
    assert await store.hold("p", {"k": "a", "none": "a"}, {}) == {}


async def an_ended_log_is_forgotten_and_its_key_is_free(connect: Connect) -> None:
    await _is_forgotten(connect, ended=True)


async def a_lost_log_is_forgotten_and_its_key_is_free(connect: Connect) -> None:
    await _is_forgotten(connect, ended=False)


async def an_ended_log_may_free_its_key(connect: Connect) -> None:
    store = connect(payer_logs=1)
    for id in ("a", "b", "c"):  # each takes the place of the one before, in the share of the payer, too
        state = await store.open("k", new_log(id))
        assert (state.id, state.last, state.end, state.readers) == (id, 0, None, 0)
        assert (await store.open("k", new_log("other"))).id == id
        await store.hold("q", {}, {"k": 1})
        await add_own(store, 1, b"x", id=id)
        await add_own(store, 2, id=id, end=b"end", free=True)
        page = await page_of(store)
        assert (page.state.id, page.state.end, list(page.entries)) == (id, b"end", [b"x"])
    with raises(StoreFull):
        await store.open("k2", new_log("a"))


async def a_log_that_has_freed_its_key_does_not_start_again(connect: Connect) -> None:
    ours, theirs = connect(), connect()
    ids = [f"id{number}" for number in range(10)]
    for place, id in enumerate(ids):
        await ours.open("k", new_log(id))
        await end(theirs, b"end", id=id, free=True)
        for late in ids[max(0, place - 8) : place + 1]:
            state = await theirs.open("k", new_log(late))
            assert (state.id, state.end) == (id, b"end"), "a late open has begun a log again"
    assert (await theirs.open("k", new_log("new"))).id == "new"
    assert (await ours.open("k", new_log("id8"))).id == "new"


# ---------------------------------------------------------------- entries


async def entries_are_read_in_order_from_any_position_and_page_by_page(connect: Connect) -> None:
    ours, theirs = connect(log_bytes=1 << 24), connect(log_bytes=1 << 24)
    await ours.open("k", new_log("a"))
    entries = [b"", bytes(range(256)), b"x" * (64 * 1024 + 1), b"\r\n", *(b"%d" % n * (n % 300) for n in range(3000))]
    await add_own(ours, 1, entries[0])
    state = await add_own(ours, 2, *entries[1:])
    assert (state.first, state.last) == (1, len(entries))
    assert await entries_of(theirs) == entries
    for after in (0, 1, 2, 3, 700, len(entries) - 1):
        page = await page_of(theirs, after)
        assert page.number == after + 1 and list(page.entries) == entries[after : after + len(page.entries)]
        assert sum(map(len, page.entries[:-1])) < 64 * 1024
        assert (page.before, page.ids[0]) == (f"a.{after}" if after else "", f"a.{after + 1}")
    for after in (len(entries), len(entries) + 5):
        page = await page_of(theirs, after)
        assert (page.number, page.before, list(page.entries)) == (len(entries) + 1, f"a.{len(entries)}", [])


async def a_repeated_batch_changes_nothing_and_a_gap_is_refused(connect: Connect) -> None:
    store = connect()
    await store.open("k", new_log("a"))
    for number, entries in ((1, b"ab"), (1, b"ab"), (3, b"c"), (3, b"c"), (4, b"d")):
        await add_own(store, number, *[bytes([each]) for each in entries])
    for id, writer, number in (("a", "a", 6), ("a", "b", 5), ("b", "b", 5), ("a", "a", 3)):
        with raises(LogGone):
            await store.append("k", id, writer, number, [b"x"])
    with raises(LogGone):
        await add_own(store, 1, b"x", key="none")
    with raises(LogGone):
        await add(store, "w", 1, b"x")
    assert await entries_of(store) == [b"a", b"b", b"c", b"d"]


async def the_first_end_counts_and_an_owner_does_not_end_what_has_lost_entries(connect: Connect) -> None:
    ours, theirs = connect(), connect()
    await ours.open("k", new_log("a"))
    await add_own(ours, 1, b"x")
    with raises(LogGone):
        await add_own(ours, 3, end=b"wrong")
    for id, writer in (("b", "other"), ("a", "b")):
        with raises(LogGone):
            await ours.append("k", id, writer, 1, [], end=b"wrong")
    assert not (await add_own(ours, 2, b"y")).lost
    await end(theirs, b"early", only_if_lost=True)
    assert (await page_of(ours)).state.end is None, "its process may have come back meanwhile"
    state = await add_own(ours, 3, b"z", end=b"first \xff")
    assert (state.end, state.last) == (b"first \xff", 3)
    assert (await add_own(ours, 3, b"z", end=b"first \xff")).end == state.end
    for second in (add_own(ours, 4, end=b"second"), end(theirs, b"second")):
        assert (await second).end == b"first \xff"
    with raises(LogGone):
        await add_own(ours, 4, b"z")
    page = await page_of(theirs)
    assert (page.state.end, page.state.lost, list(page.entries)) == (b"first \xff", False, [b"x", b"y", b"z"])


async def any_process_ends_a_log_and_its_owner_learns_of_it(connect: Connect) -> None:
    ours, theirs = connect(), connect()
    await ours.open("k", new_log("a"))
    await add_own(ours, 1, b"x")
    await end(theirs, b"stopped")
    assert (await ours.hold("p", {"k": "a"}, {}))["k"].end == b"stopped"
    assert (await add_own(ours, 1, b"x")).end == b"stopped"
    assert (await add_own(ours, 2, end=b"late")).end == b"stopped"
    with raises(LogGone):
        await add_own(ours, 2, b"y")


async def the_oldest_entries_are_dropped_but_not_the_last(connect: Connect) -> None:
    store = connect(log_bytes=2000)
    state = await store.open("k", new_log("a"))
    for number in range(1, 101):
        state = await add_own(store, number, b"%3d" % number + bytes(97))
    assert state.last == 100 and 80 <= state.first < 90
    page = await page_of(store, 3)
    assert (page.number, len(page.entries)) == (state.first, 101 - state.first)
    assert page.entries[0] == b"%3d" % state.first + bytes(97) and page.state.first == state.first
    state = await add_own(store, 101, bytes(5000))
    assert (state.first, state.last) == (101, 101)
    state = await add_own(store, 102, b"x")
    assert (state.first, await entries_of(store, 101)) == (102, [b"x"])


# ---------------------------------------------------------------- reading


async def a_read_waits_for_an_entry_and_for_the_end(connect: Connect) -> None:
    ours, theirs = connect(), connect()
    assert await theirs.read("k", 0, wait=600) is None
    await ours.open("k", new_log("a"))

    async def read_all(store: Store) -> list[bytes]:
        entries: list[bytes] = []
        while True:
            page = await store.read("k", len(entries), wait=600)
            assert page is not None and page.number == len(entries) + 1
            entries += page.entries
            if page.state.end is not None and len(entries) == page.state.last:
                return entries

    async with asyncio.timeout(60):  # no read waits until its time is over
        readers = [asyncio.create_task(read_all((ours, theirs)[number % 2])) for number in range(40)]
        for number in range(30):
            await add_own(ours, number + 1, b"%d" % number * (9999 if number == 10 else 1))
            if number % 3 == 0:  # all have begun to wait
                await theirs.read("k", number + 1, wait=SOON)
        await add_own(ours, 31, *[bytes(1000)] * 100)
        await theirs.read("k", 130, wait=SOON)
        await add_own(ours, 131, end=b"")
        expected = [b"%d" % number * (9999 if number == 10 else 1) for number in range(30)] + [bytes(1000)] * 100
        for reader in readers:
            assert await reader == expected


async def a_read_ends_when_its_time_is_over_or_its_store_is_closed_which_a_call_opens(connect: Connect) -> None:
    store = connect()
    await store.open("k", new_log("a"))
    page = await page_of(store, wait=SOON)
    assert (page.number, list(page.entries), page.state.last) == (1, [], 0)
    for stop in ("cancel", "close"):
        reading = asyncio.create_task(store.read("k", 0, wait=30))
        await store.read("k", 0, wait=SOON)
        if stop == "cancel":
            reading.cancel()
        else:
            await store.close()
            await store.close()
        async with asyncio.timeout(60):
            await asyncio.gather(reading, return_exceptions=True)
    await add_own(store, 1, b"x")
    assert list((await page_of(store, wait=30)).entries) == [b"x"]


async def readers_count_until_their_process_reports_another_number(connect: Connect) -> None:
    ours, theirs = connect(lease=AN_HOUR), connect(lease=AN_HOUR)
    await ours.open("k", new_log("a"))
    await theirs.hold("q", {}, {"k": 2, "none": 1})
    await theirs.hold("r", {}, {"k": 1})
    assert (await add_own(ours, 1, b"x")).readers == 3
    await theirs.hold("q", {}, {"k": 0})
    assert (await ours.hold("p", {"k": "a"}, {}))["k"].readers == 1


async def readers_no_longer_count_when_their_process_is_silent_for_a_lease(connect: Connect) -> None:
    ours, theirs = connect(lease=SOON), connect(lease=SOON)
    await ours.open("k", new_log("a"))
    await theirs.hold("q", {}, {"k": 2})
    await until(lambda: ours.hold("p", {"k": "a"}, {}), lambda states: states["k"].readers == 0)


async def a_log_that_its_process_releases_is_lost_at_once(connect: Connect) -> None:
    ours, theirs = connect(lease=AN_HOUR), connect(lease=AN_HOUR)
    for key in ("k", "k2", "ended"):
        await ours.open(key, new_log("a"))
    await end(ours, b"end", key="ended")
    await ours.release({"k": "a", "k2": "b", "ended": "a", "none": "a"})
    assert [await state_of(theirs, key) for key in ("k", "k2", "ended")] == [
        LogState("a", "[1]", 1, 0, None, 0, True),
        LogState("a", "[1]", 1, 0, None, 0, False),
        LogState("a", "[1]", 1, 0, b"end", 0, False),
    ]
    assert not (await ours.hold("p", {"k": "a"}, {}))["k"].lost


async def a_log_that_is_held_is_not_forgotten(connect: Connect) -> None:
    store, now = connect(lease=SOON), asyncio.get_running_loop().time
    await store.open("ended", new_log("a", keep=math.inf))
    await end(store, b"kept", key="ended")
    for keep in (LATER, 10 * LATER, 100 * LATER):  # on a busy machine, one step may take longer than a log is kept
        key, gone, asked, is_kept = f"k{keep:.0f}", f"gone{keep:.0f}", now(), True
        for each in (key, gone):
            await store.open(each, new_log("a", keep=keep))
        while is_kept and await store.read(gone, 0) is not None:
            before, asked = asked, now()
            is_kept = bool(await store.hold("p", {key: "a"}, {}))
            assert is_kept or now() - before > keep
        if is_kept:
            break
    assert (await page_of(store, key="ended")).state.end == b"kept"
    await until(partial(store.read, key, 0), lambda page: page is None)


# ---------------------------------------------------------------- shares


async def _has_room_again(connect: Connect, **limits: int) -> None:
    store, now = connect(lease=SOON, **limits), asyncio.get_running_loop().time
    large = partial(new_log, "a", payload=bytes(30_000))
    for keep in (LATER, 10 * LATER, 100 * LATER):  # on a busy machine, one step may take longer than a log is kept
        began, payer = now(), f"ann {keep:.0f}"
        first, second, third, fourth, fifth = [f"{payer} {number}" for number in range(5)]
        for key in (first, second, third):
            await store.open(key, large(payer=payer, keep=keep if key == second else 60))
        try:
            await store.open(fourth, large(payer=payer))
        except StoreFull:
            break
        assert now() - began > keep
    assert (await store.open(third, new_log("b"))).id == "a"
    assert (await store.open(fourth, new_log("a", payer="bob"))).id == "a"
    await end(store, b"", key=second)

    async def has_room() -> bool:
        try:
            return (await store.open(fifth, large(payer=payer))).id == "a"
        except StoreFull:
            return False

    await until(has_room, bool)
    assert await store.read(first, 0) is not None


async def a_payer_with_too_many_logs_has_room_again_when_one_is_forgotten(connect: Connect) -> None:
    await _has_room_again(connect, payer_logs=3)


async def a_payer_with_too_many_bytes_has_room_again_when_a_log_is_forgotten(connect: Connect) -> None:
    await _has_room_again(connect, payer_bytes=110_000)


async def a_payer_has_a_number_of_bytes(connect: Connect) -> None:
    store = connect(payer_bytes=100_000)
    for key, payer in (("k", "ann"), ("other", "bob")):
        await store.open(key, new_log("a", payer=payer))
        await add_own(store, 1, *[bytes(1000)] * 20, key=key)
    with raises(StoreFull):
        await store.open("k2", new_log("a", payload=bytes(80_000)))
    await store.open("k2", new_log("a", payload=bytes(60_000)))
    state = await add_own(store, 21, *[bytes(1000)] * 20)
    assert 1 < state.first <= 21 and state.last == 40
    state = await add_own(store, 41, bytes(90_000))
    assert (state.first, state.last) == (42, 41)
    page = await page_of(store, 20, wait=30)  # what was dropped is told, and not waited for
    assert (page.number, page.before, page.state.first, list(page.entries)) == (42, "a.41", 42, [])
    assert len(await entries_of(store, key="other")) == 20
    await add_own(store, 42, *[bytes(1000)] * 15)
    with raises(StoreFull):
        await add_own(store, 57, end=bytes(90_000))
    assert (await page_of(store, 42)).state.end is None
    await add_own(store, 57, end=bytes(30_000))
    page = await page_of(store, 42)
    assert page.state.end == bytes(30_000) and page.state.first > 42
    with raises(StoreFull):
        await store.open("k3", new_log("a", payload=bytes(20_000)))


STORE_CHECKS: tuple[Check, ...] = (*checks_in(globals()), *LIST_CHECKS, *MOVE_CHECKS)
"""Checks of a store, each with a name that says what must hold. A check gets a `Connect`, and raises `AssertionError`.
"""
