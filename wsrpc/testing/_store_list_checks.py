"""Checks of a store: lists of logs, and logs without an owner."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import TypeVar

from ..store import ListedLog, LogGone, LogState, Store, StoreFull, Topic
from ._store_tools import (
    AN_HOUR,
    LARGEST_NUMBER,
    LATER,
    SOON,
    Connect,
    add,
    add_own,
    checks_in,
    end,
    entries_of,
    listed,
    new_log,
    page_of,
    raises,
    state_of,
    until,
)

L = TypeVar("L", bound=ListedLog | Topic)


# ---------------------------------------------------------------- lists


async def all_pages(ask: Callable[[int], Awaitable[Sequence[L]]]) -> list[Sequence[L]]:
    """Read a list, or the lists, and check the order."""
    pages, last = list[Sequence[L]](), 0
    while not pages or pages[-1]:
        pages.append(await ask(last))
        numbers = [last, *(each.number for each in pages[-1])]
        assert numbers == sorted({*numbers}) and numbers[-1] < 2**53, numbers
        last = numbers[-1]
    return pages


async def adopted(store: Store, within: float) -> tuple[str, float]:
    """Adopt a log that can be adopted for a short time. Return its key, and for how long: more on a busy machine."""
    while True:
        await store.open(key := f"k{int(1000 * within)}", listed("a", within=within))
        with suppress(LogGone):
            await store.adopt(key, "a", "p")
            return key, within
        within *= 2


async def logs_stand_in_a_list_in_the_order_of_their_beginning(connect: Connect) -> None:
    stores = [connect() for _ in range(3)]
    ids = [f"id{7 * number % 20}" for number in range(20)]
    for place, id in enumerate(ids):
        log, before = listed(id, payload=b"\xff" + id.encode()), ids[place - 1] if place else ""
        for store, opens in zip(stores, (log, log, listed("late", "other list")), strict=True):
            state = await store.open(f"k{id}", opens)
            assert (state.id, state.behind) == (id, before)
        assert (await stores[place % 3].open(f"alone{place}", new_log(id))).behind == ""
        assert (await stores[place % 3].open(f"x{place}", listed(f"x{place}", f"t{place}"))).behind == ""
    for number in (0, 5, 19):
        await end(stores[number % 3], b"", id=ids[number], key=f"k{ids[number]}")
    states = [await stores[0].open(f"k{ids[number]}", listed("late")) for number in (0, 1, 6)]
    assert [state.behind for state in states] == ["", "", ids[4]], "those that have ended are in no list"
    assert (await stores[1].open("last", listed("last"))).behind == ids[18]
    left = [*(id for id in ids if id not in (ids[0], ids[5], ids[19])), "last"]
    found, none = await all_pages(partial(stores[2].pending, "t"))
    assert not none and [log.id for log in found] == left
    assert [log.number for log in await stores[1].pending("t", 0)] == [log.number for log in found]
    assert (found[0].key, found[0].payload) == (f"k{ids[1]}", b"\xff" + ids[1].encode())
    assert all((log.attempt, log.lost) == (0, False) and 0 <= log.age < AN_HOUR for log in found)
    assert [log.age for log in found] == sorted((log.age for log in found), reverse=True)
    assert [log.id for log in await stores[0].pending("t", found[9].number)] == left[10:]
    assert await stores[0].pending("nothing", 0) == []


async def a_list_is_read_page_by_page(connect: Connect) -> None:
    store = connect()
    await asyncio.gather(*(store.open(f"k{n}", listed(f"id{n}", payload=bytes(500))) for n in range(230)))
    pages = await all_pages(partial(store.pending, "t"))
    assert [len(page) for page in pages] == [100, 100, 30, 0]
    assert {log.id for page in pages for log in page} == {f"id{n}" for n in range(230)}
    for n, size in enumerate((64 * 1024 - 1, 1, 1, 1 << 20, 1, 64 * 1024)):
        await store.open(f"big{n}", listed(f"id{n}", "big", payload=bytes(size)))
    pages = await all_pages(partial(store.pending, "big"))
    assert [[len(log.payload) for log in page] for page in pages] == [
        [64 * 1024 - 1, 1],
        [1, 1 << 20],
        [1, 64 * 1024],
        [],
    ]


async def lists_are_found_page_by_page_in_the_order_of_their_last_logs(connect: Connect) -> None:
    ours, theirs = connect(), connect()
    assert await theirs.topics(0) == []
    await asyncio.gather(*(ours.open(f"k{n}", listed(f"id{n}", f"ada {n}")) for n in range(230)))
    await ours.open("alone", new_log("a"))
    pages = await all_pages(theirs.topics)
    assert [len(page) for page in pages] == [200, 30, 0]
    found = {each.name: each for page in pages for each in page}
    assert found.keys() == {f"ada {n}" for n in range(230)}
    assert (found["ada 7"].count, found["ada 7"].newest) == (1, "id7")
    last = pages[1][-1].number
    for key, topic in (("another", "ada 7"), ("more", "ada 8"), ("again", "ada 7")):
        await ours.open(key, listed(key, topic))
    assert [(each.name, each.count, each.newest) for each in await theirs.topics(last)] == [
        ("ada 8", 2, "more"),
        ("ada 7", 3, "again"),
    ]
    for key, id in (("again", "again"), ("k9", "id9"), ("k8", "id8")):
        await end(ours, b"", id=id, key=key)
    before = await theirs.pending("ada 7", 0)
    pages = await all_pages(theirs.topics)
    found = {each.name: each for page in pages for each in page}
    assert len(found) == 229 and "ada 9" not in found, "it is empty"
    assert (found["ada 7"].count, found["ada 7"].newest) == (2, "another")
    assert (found["ada 8"].count, found["ada 8"].newest) == (1, "more")
    assert before[0].age <= found["ada 7"].age <= (await theirs.pending("ada 7", 0))[0].age, "that of the oldest log"
    assert found["ada 8"].number >= (await theirs.pending("ada 8", 0))[-1].number > last


async def only_its_present_owner_and_others_by_that_name_end_a_log_of_a_list(connect: Connect) -> None:
    ours, theirs = connect(lease=AN_HOUR), connect(lease=AN_HOUR)
    for key in ("k", "k2", "k3"):
        await ours.open(key, listed("a", payload=b"call"))
    for attempt, owner in enumerate("pqqr"):
        state = await theirs.adopt("k", "a", owner)
        assert (state.attempt, state.end, state.lost) == (attempt - (attempt > 1) + 1, None, False)
    assert (await ours.adopt("k2", "a", "p")).attempt == 1
    for key, id, owner in (("k", "b", "p"), ("none", "a", "p")):
        with raises(LogGone):
            await ours.adopt(key, id, owner)
    for writer in ("a", "p", "q", "x"):
        with raises(LogGone):
            await ours.append("k", "a", writer, 1, [], end=b"wrong")
    page = await page_of(ours)
    assert (page.state.attempt, page.state.end) == (3, None)
    [log, *_] = await ours.pending("t", 0)
    assert (log.key, log.payload, log.attempt) == ("k", b"call", 3)
    for _ in range(2):
        assert (await theirs.append("k", "a", "r", 1, [], end=b"answer")).state.end == b"answer"
        assert (await end(ours, b"late")).end == b"answer"
        assert (await end(ours, b"stopped", key="k2")).end == b"stopped"
        assert (await add_own(theirs, 1, key="k3", end=b"withdrawn")).end == b"withdrawn", "it has no other owner"
    for key in ("k", "k2", "k3"):
        for owner in ("p", "r"):
            with raises(LogGone):
                await ours.adopt(key, "a", owner)
    assert await ours.pending("t", 0) == [] and await ours.topics(0) == []


async def a_read_waits_for_the_end_of_a_log_of_a_list_which_another_process_ends(connect: Connect) -> None:
    ours, theirs = connect(), connect()
    await ours.open("k", listed("a"))

    async def wait_for_end() -> LogState:
        async with asyncio.timeout(60):
            while (page := await page_of(ours, wait=600)).state.end is None:
                pass
            return page.state

    waiting = asyncio.create_task(wait_for_end())
    await theirs.read("k", 0, wait=SOON)
    await theirs.adopt("k", "a", "p")
    await theirs.append("k", "a", "p", 1, [], end=b"answer")
    state = await waiting
    assert (state.end, state.attempt, state.lost, state.known_in) == (b"answer", 1, False, 0)


async def of_many_that_adopt_a_log_the_last_one_owns_it(connect: Connect) -> None:
    stores = [connect() for _ in range(3)]
    await stores[0].open("k", listed("a"))
    states = await asyncio.gather(*(stores[number % 3].adopt("k", "a", f"p{number}") for number in range(12)))
    assert sorted(state.attempt for state in states) == [*range(1, 13)]
    for number, state in enumerate(states):
        ending = stores[0].append("k", "a", f"p{number}", 1, [], end=b"end")
        if state.attempt == 12:
            assert (await ending).state.end == b"end"
            return
        with raises(LogGone):
            await ending


async def a_log_of_a_list_is_not_lost_before_its_time_is_over(connect: Connect) -> None:
    store = connect(lease=SOON)
    for key in ("k", "k2"):
        assert AN_HOUR - 600 < (await store.open(key, listed("a"))).known_in < AN_HOUR + 1
    await store.adopt("k", "a", "p")
    await store.read("k", 0, wait=LATER)
    await store.release({"k": "a", "k2": "a"})
    for log in await store.pending("t", 0):
        state = await state_of(store, log.key)
        assert state is not None and not (state.lost or log.lost) and AN_HOUR - 600 < state.known_in < AN_HOUR + 1
    assert (await end(store, b"early", only_if_lost=True)).end is None
    assert (await store.adopt("k", "a", "q")).attempt == 2


async def a_log_of_a_list_is_lost_when_its_time_and_its_lease_are_over(connect: Connect) -> None:
    ours, theirs = connect(lease=AN_HOUR), connect(lease=AN_HOUR)
    await ours.open("alone", listed("b", within=SOON))
    key, within = await adopted(ours, LATER)
    first, *_, log = await until(partial(theirs.pending, "t", 0), lambda found: found[-1].age > within)
    assert (first.id, first.attempt, first.lost) == ("b", 0, True)
    assert (log.id, log.attempt, log.lost) == ("a", 1, False)
    for name, id, owner in (("alone", "b", "q"), (key, "a", "q")):
        with raises(LogGone):
            await theirs.adopt(name, id, owner)
    assert (await ours.adopt(key, "a", "p")).attempt == 1, "it has this owner already"
    state = await state_of(theirs, key)
    assert state is not None and not state.lost and AN_HOUR - 600 < state.known_in < AN_HOUR + 1
    assert (await end(theirs, b"early", key=key, only_if_lost=True)).end is None
    await ours.release({key: "a"})
    state = await state_of(theirs, key)
    assert state is not None and (state.lost, state.known_in, state.attempt) == (True, 0, 1)
    assert not (await ours.hold("p", {key: "a"}, {}))[key].lost
    await ours.release({key: "a"})
    for name, id in (("alone", "b"), (key, "a")):
        assert (await end(theirs, b"lost", id=id, key=name, only_if_lost=True)).end == b"lost"


async def a_log_of_a_list_is_forgotten_after_its_end_or_when_it_is_lost(connect: Connect) -> None:
    store = connect(lease=SOON)
    await store.open("stays", listed("b", keep=SOON))
    await store.open("ended", listed("c", keep=LATER))
    await store.open("lost", listed("a", keep=LATER, within=SOON))
    await end(store, b"", id="c", key="ended")
    for key in ("ended", "lost"):
        await until(partial(store.read, key, 0), lambda page: page is None)
    for call in (end(store, b"", key="lost"), store.adopt("lost", "a", "p")):
        with raises(LogGone):
            await call
    assert [log.id for log in await store.pending("t", 0)] == ["b"]
    [topic] = await store.topics(0)
    assert (topic.name, topic.newest) == ("t", "b")
    await store.open("last", listed("a", "u", keep=SOON, within=SOON))
    await until(partial(store.topics, topic.number), lambda found: not found)
    state = await store.open("lost", listed("d"))
    assert (state.id, state.attempt, state.behind) == ("d", 0, "b")


async def a_list_has_a_number_of_logs_that_wait(connect: Connect) -> None:
    store = connect(waiting=3, payer_logs=1)
    for number in range(3):
        await store.open(f"k{number}", listed(f"id{number}"))
    for _ in range(2):
        with raises(StoreFull):
            await store.open("k3", listed("id3"))
        assert await store.read("k3", 0) is None
    assert (await store.open("k2", listed("id3"))).id == "id2"
    for key, log in (("other", listed("a", "u")), ("alone", new_log("a"))):
        assert (await store.open(key, log)).id == "a", "only the list is full"
    with raises(StoreFull):
        await store.open("alone2", new_log("a"))
    await end(store, b"", id="id1", key="k1")
    await store.open("k3", listed("id3", within=SOON))

    async def has_room() -> bool:
        with suppress(StoreFull):
            return (await store.open("k4", listed("id4"))).id == "id4"
        return False

    await until(has_room, bool)  # when the last one is lost
    with raises(StoreFull):
        await store.open("k5", listed("id5"))
    assert [log.id for log in await store.pending("t", 0)] == ["id0", "id2", "id3", "id4"]


async def the_payload_of_a_log_is_forgotten_when_it_ends(connect: Connect) -> None:
    store = connect(payer_bytes=100_000)
    await store.open("k", listed("a", payload=bytes(60_000)))
    with raises(StoreFull):
        await store.open("k2", listed("a", payload=bytes(60_000)))
    await end(store, bytes(25_000))
    await store.open("k2", listed("a", payload=bytes(60_000)))
    assert (await page_of(store)).state.end == bytes(25_000)


async def those_that_have_left_a_list_make_room_the_first_one_first(connect: Connect) -> None:
    store = connect(payer_bytes=100_000)
    for key, payer in (("k1", "ann"), ("k2", "ann"), ("theirs", "bob")):
        await store.open(key, listed("a", payer=payer))
    await store.open("run", new_log("a"))
    for key in ("run", "theirs", "k2", "k1"):
        await end(store, bytes(25_000), key=key)
    with raises(StoreFull):
        await store.open("k3", new_log("a", payload=bytes(20_000)))
    await store.open("k3", listed("a", payload=bytes(20_000)))
    assert [await state_of(store, key) is None for key in ("run", "theirs", "k2", "k1")] == [False, False, True, False]
    assert (await store.open("k2", listed("b"))).id == "b", "its key is free"
    await store.open("k4", listed("a", payload=bytes(30_000)))
    assert [await state_of(store, key) is None for key in ("run", "theirs", "k2", "k1")] == [False, False, False, True]
    with raises(StoreFull):
        await store.open("k5", listed("a", payload=bytes(60_000)))
    assert [log.key for log in await store.pending("t", 0)] == ["k3", "k2", "k4"], "those that wait stay"


# ---------------------------------------------------------------- logs without an owner


async def a_repeated_add_has_no_second_effect(connect: Connect) -> None:
    ours, theirs = connect(log_bytes=3000), connect(log_bytes=3000)
    writers = [f"w{number}" for number in range(128)]
    for number, writer in enumerate(writers):
        added = await add(theirs, writer, 7, bytes(50))
        assert (added.number, added.before) == (number + 1, f"w{number - 1}.7" if number else "")
    for number, writer in enumerate(writers):  # most of these items have been dropped
        added = await add(ours, writer, 7, bytes(50))
        assert (added.number, added.before) == (number + 1, f"w{number - 1}.7" if number else "")
        assert (added.state.last, added.state.first > 50) == (128, True)
    assert (await add(ours, "w0", 9, b"b", b"c")).number == 129
    assert (await add(theirs, "w1", 8, b"d")).number == 131
    assert (await add(theirs, "w0", 9, b"b", b"c")).number == 129
    for sequence in (7, 10):
        with raises(LogGone):
            await add(theirs, "w0", sequence, b"x")
    page = await page_of(ours, 128)
    assert (list(page.entries), list(page.ids)) == ([b"b", b"c", b"d"], ["w0.9", "w0.10", "w1.8"])


async def a_reader_of_a_log_learns_whether_its_position_is_still_right(connect: Connect) -> None:
    store = connect(log_bytes=2000, payer_bytes=100_000)
    state = (await add(store, "w", 1)).state
    for after in (0, 5, LARGEST_NUMBER):
        page = await page_of(store, after)
        assert (page.number, page.before, list(page.ids)) == (1, "", [])
    for sequence in range(1, 41):
        state = (await add(store, "w", sequence, bytes(100))).state
    first = state.first
    assert 20 < first < 40 == state.last
    for after, number in ((0, first), (first - 2, first), (first - 1, first), (first, first + 1), (39, 40)):
        page = await page_of(store, after)
        ids = [f"w.{each}" for each in range(number, 41)]
        assert (page.number, page.before, list(page.ids)) == (number, f"w.{number - 1}", ids)
    for after, wait in ((40, 0), (41, 30), (LARGEST_NUMBER, 30)):
        async with asyncio.timeout(60):  # a log that has lost items is told at once
            page = await page_of(store, after, wait=wait)
        assert (page.number, page.before, list(page.ids)) == (41, "w.40", [])
    added = await add(store, "w", 41, bytes(100_000))  # more than its payer may have
    assert (added.number, added.before, added.state.first, added.state.last) == (41, "w.40", 42, 41)
    page = await page_of(connect(), 40, wait=30)
    assert (page.number, page.before, list(page.entries)) == (42, "w.41", [])
    assert (await add(store, "w", 42, b"x")).before == "w.41"


async def a_log_is_forgotten_after_its_last_add_and_starts_anew(connect: Connect) -> None:
    ours, theirs = connect(lease=SOON), connect(lease=SOON)
    await add(ours, "gone", 1, b"x", key="gone", keep=SOON)
    await add(ours, "w", 1, b"x", keep=AN_HOUR)
    await until(partial(theirs.read, "gone", 0), lambda page: page is None)
    assert await entries_of(theirs) == [b"x"]

    async def wait_for_another() -> None:
        while (page := await theirs.read("k", 2, wait=5)) is not None and page.state.id == "log-w":
            pass

    waiting = asyncio.create_task(wait_for_another())
    await add(ours, "w", 2, b"y", keep=SOON)
    await until(partial(ours.read, "k", 0), lambda page: page is None)
    added = await add(ours, "w2", 5, b"new", keep=60)
    assert (added.number, added.before, added.state.id) == (1, "", "log-w2")
    async with asyncio.timeout(60):
        await waiting
    await add(ours, "w2", 6, b"x", keep=1e-3)
    await until(partial(ours.read, "k", 0), lambda page: page is None)


async def a_log_counts_for_its_payer(connect: Connect) -> None:
    store = connect(payer_logs=2, payer_bytes=100_000)
    await store.open("run", new_log("a", payload=bytes(60_000)))
    added = await add(store, "w", 1, bytes(1000), keep=AN_HOUR)
    for sequence in range(2, 41):
        added = await add(store, "w", sequence, bytes(1000), keep=AN_HOUR)
    assert 1 < added.state.first < 40
    with raises(StoreFull):
        await add(store, "w", 1, b"x", key="k2")
    await add(store, "w", 1, b"x", key="k2", payer="bob")
    await add(store, "w", 41, bytes(1000), keep=LATER)
    await until(partial(store.read, "k", 0), lambda page: page is None)
    await store.open("k3", new_log("a", payload=bytes(20_000)))


# ---------------------------------------------------------------- counts


async def _acquire(store: Store, process: str, has: int, wants: int, most: int = 5, subject: str = "ann-1") -> int:
    return (await store.acquire(subject, process, has, wants, most)).count


async def all_processes_acquire_no_more_than_there_is(connect: Connect) -> None:
    stores = {"p": connect(), "q": connect()}
    for process, store in stores.items():
        await store.open(process, new_log(process, payer=process))
    steps = [("p", 0, 2, 2), ("p", 0, 2, 2), ("p", 2, 9, 5), ("p", 2, 9, 5), ("p", 3, 3, 3), ("q", 0, 9, 2)]
    steps += [("q", 7, 9, 7), ("p", 3, 9, 3), ("q", 1, 1, 1), ("p", 4, 9, 4), ("q", 0, 0, 0), ("q", 0, 9, 1)]
    for process, has, wants, count in steps:
        assert await _acquire(stores[process], process, has, wants) == count, (process, has, wants)
    assert [await _acquire(stores[each], each, 0, 5, subject="bob") for each in "qp"] == [5, 0]
    acquired = await asyncio.gather(*(_acquire(stores[each], each, 0, 4, subject="cleo") for each in "pq" * 9))
    assert {*acquired} == {4, 1}


async def what_a_process_has_counts_until_its_lease_lapses(connect: Connect) -> None:
    store = connect(lease=SOON)
    for process in ("p", "q"):
        await store.open(process, new_log(process, payer=process, keep=AN_HOUR))
        await _acquire(store, process, 0, 5)
    await until(partial(_acquire, store, "q", 0, 5), lambda count: count == 5)


async def what_a_process_has_counts_until_its_log_ends(connect: Connect) -> None:
    store, other = connect(lease=AN_HOUR), connect(lease=AN_HOUR)
    for process, count in (("p", 2), ("r", 2), ("q", 1)):
        await store.open(process, new_log(process, payer=process))
        assert await _acquire(store, process, 0, 2) == count
    await store.release({"p": "p"})
    assert await _acquire(other, "q", 1, 5) == 3
    await store.hold("h", {"p": "p"}, {})
    assert await _acquire(other, "q", 1, 5) == 1
    await end(store, b"", id="r", key="r", free=True)
    assert await _acquire(other, "q", 1, 5) == 3
    await store.open("r", new_log("s", payer="r"))
    assert await _acquire(other, "q", 1, 5) == 3, "another log has nothing of the one before it"
    assert await _acquire(store, "r", 0, 1) == 0
    await end(store, b"", id="s", key="r")
    await add(store, "w", 1, key="room")
    for process in ("none", "r", "room"):
        with raises(LogGone):
            await _acquire(store, process, 0, 1)


LIST_CHECKS = checks_in(globals())
