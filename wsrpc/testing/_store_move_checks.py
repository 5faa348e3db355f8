"""Checks of a store: logs that move to another process."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from ..store import Appended, ListedLog, LogGone, LogState, NewLog, Store, StoreFull
from ._store_tools import (
    AN_HOUR,
    LATER,
    SOON,
    Connect,
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


def moving(id: str = "a", **fields: object) -> NewLog:
    """Return a log that can move to another process."""
    return new_log(id, **({"payload": b"call"} | fields))


async def open_moving(store: Store, key: str = "k", id: str = "a", **fields: object) -> None:
    """Begin a log that can move."""
    assert (await store.open(key, moving(id, **fields))).id == id
    await store.adopt(key, id, id)


async def _open_briefly(store: Store, keep: float, *, ended: bool) -> None:
    """Begin a log that is kept for a short time, which is longer on a busy machine, and perhaps end it."""
    while True:
        with suppress(LogGone):
            await open_moving(store, keep=keep)
            if ended:
                await end(store, b"stopped")
            return
        keep *= 2


async def found_lost(store: Store) -> Sequence[ListedLog]:
    """Wait until logs can be adopted, and return them."""

    async def lost() -> list[ListedLog]:
        return [log for log in await store.pending("", 0) if log.lost]

    return await until(lost, bool)


async def add_as(store: Store, owner: str, number: int, *entries: bytes, end: bytes | None = None) -> Appended:
    """Add entries to the log, or end it, as one of its owners."""
    return await store.append("k", "a", owner, number, entries, end=end)


async def _moved(connect: Connect) -> tuple[Store, Store]:
    """Return the stores of two processes: the first had the log, which has two entries, and the second has it now."""
    ours, theirs = connect(lease=SOON), connect()
    await open_moving(ours)
    await add_own(ours, 1, b"one", b"two")
    [log] = await found_lost(theirs)
    await theirs.adopt(log.key, log.id, "p2")
    return ours, theirs


async def a_log_that_its_process_has_lost_is_found_and_is_continued_by_another_one(connect: Connect) -> None:
    ours, theirs = connect(lease=SOON), connect()
    await ours.open("plain", new_log("plain"))
    await ours.open("listed", listed("listed", payload=b"call", within=SOON))
    await open_moving(ours, payload=b"\xff call")
    await add_own(ours, 1, b"one")
    [log] = await found_lost(theirs)
    assert (log.key, log.id, log.payload, log.attempt) == ("k", "a", b"\xff call", 0)
    state = await theirs.adopt("k", "a", "p2")
    assert (state.id, state.last, state.attempt, state.end) == ("a", 1, 1, None)
    added = await add_as(theirs, "p2", 2, b"two", b"three")
    assert (added.number, added.before) == (2, "a.1"), "entries have the id of the log"
    assert await entries_of(ours) == await entries_of(theirs) == [b"one", b"two", b"three"]
    assert [*(await page_of(ours)).ids] == ["a.1", "a.2", "a.3"]
    assert (await add_as(theirs, "p2", 4, end=b"done")).state.end == b"done"
    for _ in range(2):
        with raises(LogGone):
            await add_as(ours, "a", 4, end=b"late")
        await add_as(theirs, "p2", 4, end=b"")
    assert (await page_of(ours, 3)).state.end == b"done"


async def one_of_many_gets_a_log_that_was_lost(connect: Connect) -> None:
    stores = [connect(lease=AN_HOUR) for _ in range(3)]
    await open_moving(stores[0])
    await stores[0].release({"k": "a"})
    owners = [f"p{number}" for number in range(9)]
    adopting = [stores[number % 3].adopt("k", "a", owner) for number, owner in enumerate(owners)]
    results = await asyncio.gather(*adopting, return_exceptions=True)
    [got] = [number for number, result in enumerate(results) if isinstance(result, LogState)]
    assert sum(isinstance(result, LogGone) for result in results) == 8
    assert (await stores[1].adopt("k", "a", owners[got])).attempt == 0, "a repetition has no effect"
    assert [log for log in await stores[2].pending("", 0) if log.lost] == []


async def a_log_whose_process_has_it_cannot_be_adopted(connect: Connect) -> None:
    store = connect(lease=AN_HOUR)
    await open_moving(store)
    await store.open("plain", new_log("a"))
    for key in ("k", "plain", "nothing"):
        with raises(LogGone):
            await store.adopt(key, "a", "p2")
    with raises(LogGone):
        await store.adopt("k", "other", "p2")
    await store.release({"plain": "a"})
    with raises(LogGone):
        await store.adopt("plain", "a", "p2")
    assert await store.pending("", 0) == []
    assert (await add_own(store, 1, b"one")).attempt == 0


async def an_owner_that_has_lost_its_log_changes_nothing_any_more(connect: Connect) -> None:
    ours, theirs = await _moved(connect)
    for entries, text in (([b"late"], None), ([], b"late"), ([b"late"], b"late")):
        with raises(LogGone):
            await add_as(ours, "a", 3, *entries, end=text)
    assert await ours.hold("process", {"k": "a"}, {}) == {}
    await theirs.hold("process", {"k": "p2"}, {})
    await ours.release({"k": "a"})
    state = (await theirs.hold("process", {"k": "p2"}, {}))["k"]
    assert (state.last, state.end, state.attempt) == (2, None, 1)
    assert (await add_as(ours, "a", 1, b"one", b"two")).number == 1, "what it has added may be repeated"
    assert await entries_of(theirs) == [b"one", b"two"]


async def an_owner_that_was_late_keeps_its_log_if_nobody_has_it(connect: Connect) -> None:
    ours, theirs = connect(lease=SOON), connect()
    await open_moving(ours)
    await found_lost(theirs)
    assert (await add_own(ours, 1, b"one")).last == 1
    await found_lost(theirs)
    assert (await ours.hold("process", {"k": "a"}, {}))["k"].attempt == 0


async def a_log_that_was_handed_over_is_adopted_at_once_and_not_counted(connect: Connect) -> None:
    ours, theirs = connect(), connect()
    await open_moving(ours)
    await add_own(ours, 1, b"one")
    await ours.release({"k": "a"})
    with raises(LogGone):
        await add_own(ours, 2, b"late")
    assert [(log.attempt, log.released) for log in await theirs.pending("", 0) if log.lost] == [(0, True)]
    assert (await theirs.adopt("k", "a", "p2")).attempt == 0
    await theirs.release({"k": "p2"})
    assert (await ours.adopt("k", "a", "p3")).attempt == 0
    assert (await add_as(ours, "p3", 2, b"two")).state.last == 2


async def a_log_that_its_owner_has_not_offered_cannot_be_adopted(connect: Connect) -> None:
    ours, theirs = connect(lease=SOON, payer_bytes=100_000), connect()
    await ours.open("k", moving(payload=bytes(60_000)))
    await until(lambda: state_of(theirs), lambda state: state is not None and state.lost)
    assert await theirs.pending("", 0) == []
    with raises(LogGone):
        await theirs.adopt("k", "a", "p2")
    assert (await ours.adopt("k", "a", "a")).attempt == 0
    assert [(log.attempt, len(log.payload)) for log in await found_lost(theirs)] == [(0, 60_000)]
    await end(ours, b"not run", free=True)
    await ours.open("k", moving("b", payload=bytes(60_000)))
    await end(theirs, b"stopped", id="b")
    await ours.open("k2", moving("c", payload=bytes(60_000)))


async def each_loss_is_counted(connect: Connect) -> None:
    store = connect(lease=SOON)
    await open_moving(store)
    for number in range(1, 4):
        [log] = await found_lost(store)
        assert (log.attempt, log.released) == (number - 1, False)
        assert (await store.adopt("k", "a", f"p{number}")).attempt == number


async def anybody_can_end_a_log_between_two_owners(connect: Connect) -> None:
    ours, theirs = connect(), connect()
    await open_moving(ours)
    await ours.release({"k": "a"})
    await end(theirs, b"stopped")
    state = await ours.adopt("k", "a", "p2")
    assert (state.end, state.lost) == (b"stopped", False)
    with raises(LogGone):
        await add_as(ours, "p2", 1, b"late")


async def an_ended_log_waits_for_a_process_until_everything_is_done(connect: Connect) -> None:
    ours, theirs = connect(lease=SOON), connect()
    await open_moving(ours)
    await add_own(ours, 1, b"one")
    await add_own(ours, 2, end=b"done")
    [log] = await found_lost(theirs)
    assert (log.key, log.payload) == ("k", b"call")
    state = await theirs.adopt("k", "a", "p2")
    assert (state.end, state.attempt) == (b"done", 0), "nobody has lost it before its end"
    with raises(LogGone):
        await add_own(ours, 2, end=b"")
    await end(ours, b"")
    await theirs.append("k", "a", "p2", 2, [], end=b"done")
    assert [log.key for log in await found_lost(ours)] == ["k"], "others say so, and a repeated end does not"
    await theirs.adopt("k", "a", "p3")
    await theirs.release({"k": "p3"})
    assert [log.key for log in await found_lost(ours)] == ["k"], "it was handed over"
    await ours.adopt("k", "a", "p4")
    for _ in range(2):
        await add_as(ours, "p4", 2, end=b"")
    assert await ours.pending("", 0) == []
    with raises(LogGone):
        await ours.adopt("k", "a", "p5")
    assert await entries_of(ours) == [b"one"]
    assert (await page_of(ours, 1)).state.end == b"done"


async def an_ended_log_whose_key_is_free_waits_for_nobody(connect: Connect) -> None:
    store = connect(payer_bytes=100_000)
    for number in range(3):
        id = f"id{number}"
        await open_moving(store, id=id, payload=bytes(60_000))
        await end(store, b"not run", id=id, free=True)
        assert await store.pending("", 0) == []
        with raises(LogGone):
            await store.adopt("k", id, "p2")


async def what_waits_after_its_end_is_forgotten_with_the_others(connect: Connect) -> None:
    store = connect(lease=SOON)
    await _open_briefly(store, LATER, ended=True)
    owners = iter(range(1_000_000))

    async def adopt() -> LogState | None:
        for log in await store.pending("", 0):
            with suppress(LogGone):  # it is forgotten meanwhile
                if log.lost:
                    await store.adopt(log.key, log.id, f"p{next(owners)}")
        return await state_of(store)

    assert await until(adopt, lambda state: state is None) is None
    assert await store.pending("", 0) == []


async def a_lost_log_that_nobody_adopts_is_forgotten(connect: Connect) -> None:
    store = connect(lease=SOON)
    await _open_briefly(store, SOON, ended=False)
    await until(lambda: state_of(store), lambda state: state is None)
    assert await store.pending("", 0) == []
    with raises(LogGone):
        await store.adopt("k", "a", "p2")


async def lost_logs_are_read_page_by_page_and_are_in_no_list(connect: Connect) -> None:
    ours, theirs = connect(), connect()
    await asyncio.gather(*(open_moving(ours, f"k{n}", f"id{n}", payload=bytes(500)) for n in range(230)))
    assert await theirs.topics(0) == []
    await ours.release({f"k{n}": f"id{n}" for n in range(230)})
    found, last = list[str](), 0
    while page := await theirs.pending("", last):
        assert len(page) <= 100 and [log.number for log in page] == sorted({log.number for log in page})
        assert page[0].number > last
        last = page[-1].number
        found += [log.id for log in page]
    assert sorted(found) == sorted(f"id{n}" for n in range(230))


async def the_payload_of_a_log_counts_until_everything_is_done(connect: Connect) -> None:
    store = connect(payer_bytes=100_000)
    await open_moving(store, payload=bytes(60_000))
    for text in (b"", b"done"):
        with raises(StoreFull):
            await store.open("k2", moving("b", payload=bytes(60_000)))
        if not text:
            await end(store, b"done")
    await add_own(store, 1, end=b"")
    await store.open("k2", moving("b", payload=bytes(60_000)))


MOVE_CHECKS = checks_in(globals())
