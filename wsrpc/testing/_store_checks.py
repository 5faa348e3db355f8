"""`STORE_CHECKS`: the contract of `wsrpc.store`, against which any store can be held."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Protocol, TypeVar

from ..store import Appended, LogGone, LogState, NewLog, Page, Store, StoreFull

T = TypeVar("T")
E = TypeVar("E", bound=Exception)

SOON = 0.05
"""Seconds after which something should have happened."""
LATER = 0.5
"""Seconds in which something should not happen, also on a busy machine."""
AN_HOUR = 3600.0
LAST = 2**53 - 1
"""The largest number of an entry."""


class Connect(Protocol):
    """Connects to a store as each process does. All connections of one check reach the same store, empty at first.

    The options of the first call count: ``lease``, ``log_bytes``, ``payer_bytes`` and ``payer_logs``, which mean what
    they mean for a `MemoryStore`.
    """

    def __call__(self, **options: Any) -> Store: ...


@contextmanager
def raises(error: type[E]) -> Generator[list[E]]:
    """Check that the block raises this error, which is then in the list."""
    caught = list[E]()
    try:
        yield caught
    except error as exc:
        caught.append(exc)
        return
    raise AssertionError(f"{error.__name__} was not raised")


def new_log(id: str, **fields: Any) -> NewLog:
    """Return a log with an owner."""
    defaults: dict[str, Any] = {"arguments": "[1]", "payer": "ann", "keep": 60.0, "owned": True}
    return NewLog(id=id, **(defaults | fields))


async def add_own(
    store: Store, number: int, *entries: bytes, id: str = "a", key: str = "k", **options: Any
) -> LogState:
    """Add entries to a log, or end it, as its owner does."""
    return (await store.append(key, id, id, number, entries, **options)).state


async def end(store: Store, end: bytes, id: str = "a", key: str = "k", **options: Any) -> LogState:
    """End a log, as any process may."""
    return (await store.append(key, id, "other", 1, [], end=end, **options)).state


async def add(
    store: Store, writer: str, sequence: int, *entries: bytes, key: str = "k", payer: str = "ann", keep: float = 60.0
) -> Appended:
    """Add entries to a log without an owner."""
    log = NewLog(id=f"log-{writer}", payer=payer, keep=keep)
    return await store.append(key, log, writer, sequence, entries)


async def until(ask: Callable[[], Awaitable[T]], condition: Callable[[T], object]) -> T:
    """Ask again and again, and return the answer for which the condition holds."""
    async with asyncio.timeout(60):
        while True:
            answer = await ask()
            if condition(answer):
                return answer
            await asyncio.sleep(0.002)


async def state_of(store: Store, key: str = "k") -> LogState | None:
    page = await store.read(key, 2**53 - 1)
    return None if page is None else page.state


async def page_of(store: Store, after: int = 0, key: str = "k", **options: Any) -> Page:
    page = await store.read(key, after, **options)
    assert page is not None
    return page


async def entries_of(store: Store, after: int = 0, key: str = "k") -> list[bytes]:
    """Read all entries that are there, page by page."""
    entries: list[bytes] = []
    while (page := await page_of(store, after, key)).entries:
        assert page.number == after + 1
        after += len(page.entries)
        entries += page.entries
    return entries


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
    await store.open("k", new_log("a", keep=LATER, topic="t"))
    await add_own(store, 1, b"old")
    await store.hold("q", {}, {"k": 1})

    async def page() -> Page | None:
        if ended:
            with suppress(LogGone):
                await end(store, b"")  # repeated, it changes nothing
        return await store.read("k", 0)

    await until(page, lambda page: page is None)
    assert await store.hold("p", {"k": "a"}, {"k": 1}) == {}
    assert await store.adopt("t") == []
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
    with raises(LogGone):
        await end(ours, b"wrong", id="b")
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


# ---------------------------------------------------------------- adopting


async def one_of_many_processes_adopts_a_log(connect: Connect) -> None:
    stores = [connect(lease=AN_HOUR) for _ in range(3)]
    for key in ("k1", "k2", "ended", "elsewhere"):
        topic = "theirs" if key == "elsewhere" else "ours"
        await stores[0].open(key, new_log("a", topic=topic, payload=b"\xff" + key.encode()))
    await stores[0].open("k3", new_log("a"))
    await end(stores[0], b"", key="ended")
    await stores[0].release(dict.fromkeys(("k1", "k2", "k3", "elsewhere"), "a"))
    found = await asyncio.gather(*(stores[number % 3].adopt("ours") for number in range(12)))
    adopted = sorted((log.key, log.id, log.payload) for logs in found for log in logs)
    assert adopted == [("k1", "a", b"\xffk1"), ("k2", "a", b"\xffk2")]
    assert await stores[1].adopt("nothing") == []


async def a_log_is_adopted_each_time_when_its_lease_has_lapsed(connect: Connect) -> None:
    store = connect(lease=SOON)
    await store.open("k", new_log("a", topic="t"))
    for leases in (1, 2, 3):
        [log] = await until(lambda: store.adopt("t"), bool)
        assert log.id == "a" and log.age >= 0.9 * leases * SOON


async def a_log_that_its_process_releases_is_lost_at_once(connect: Connect) -> None:
    ours, theirs = connect(lease=AN_HOUR), connect(lease=AN_HOUR)
    for key in ("k", "k2", "ended"):
        await ours.open(key, new_log("a", topic="t", payload=key.encode()))
    await end(ours, b"end", key="ended")
    await ours.release({"k": "a", "k2": "b", "ended": "a", "none": "a"})
    assert [await state_of(theirs, key) for key in ("k", "k2", "ended")] == [
        LogState("a", "[1]", 1, 0, None, 0, True),
        LogState("a", "[1]", 1, 0, None, 0, False),
        LogState("a", "[1]", 1, 0, b"end", 0, False),
    ]
    assert [log.payload for log in await theirs.adopt("t")] == [b"k"]
    assert await theirs.adopt("t") == []
    await theirs.release({"k": "a"})
    await ours.hold("p", {"k": "a"}, {})
    assert await theirs.adopt("t") == [], "it is held again"


async def of_two_batches_with_one_sequence_the_first_counts(connect: Connect) -> None:
    """So two processes, which are the same writer if one has adopted a log from the other, learn who was first."""
    ours, theirs = connect(), connect()
    for first, second in ((1, 2), (2, 1)):
        await ours.open(key := f"k{first}", new_log("a", topic="t"))
        assert (await add_own(ours, 1, *[b""] * first, key=key)).last == first
        assert (await add_own(theirs, 1, *[b""] * second, key=key)).last == first
        await end(theirs, b"end", key=key)
        assert (await add_own(ours, 1, *[b""] * second, key=key)) == LogState("a", "[1]", 1, first, b"end", 0, False)


async def logs_are_adopted_and_listed_the_oldest_first(connect: Connect) -> None:
    ours, theirs = connect(lease=AN_HOUR), connect(lease=AN_HOUR)
    keys = [f"k{7 * number % 20}" for number in range(20)]
    for key in keys:
        await ours.open(key, new_log("a", topic="t"))
    await add_own(ours, 1, b"", key="k7")
    if (pending := getattr(theirs, "pending", None)) is not None:  # it is optional
        assert [log.key for log in await pending("t")] == keys
    await ours.release(dict.fromkeys(keys, "a"))
    assert [(log.key, log.last) for log in await theirs.adopt("t")] == [(key, key == "k7") for key in keys]


async def the_batch_of_a_log_with_a_topic_is_not_dropped(connect: Connect) -> None:
    """Also if its payer has no bytes left."""
    store = connect(payer_bytes=100_000)
    await store.open("k", new_log("a", topic="t"))
    for size in range(96_000, 0, -16):
        with suppress(StoreFull):
            await store.open("rest", new_log("a", payload=bytes(size)))
            break
    assert (await add_own(store, 1, b"", b"")).first == 1
    assert await entries_of(store) == [b"", b""]


async def the_pending_logs_of_a_topic_are_listed(connect: Connect) -> None:
    ours, theirs = connect(lease=AN_HOUR), connect(lease=AN_HOUR)
    pending: Any = getattr(theirs, "pending", None)
    if pending is None:  # it is optional
        return
    for key in ("k1", "k2", "ended", "elsewhere"):
        await ours.open(key, new_log("a", topic="u" if key == "elsewhere" else "t", payload=b"\xff" + key.encode()))
    await ours.open("k3", new_log("a"))
    await add_own(ours, 1, b"", b"", key="k2")
    await end(ours, b"", key="ended")
    await ours.release({"k2": "a"})
    for _ in range(2):
        found = sorted(await pending("t"), key=lambda log: log.key)
        assert [(log.key, log.id, log.payload, log.last) for log in found] == [
            ("k1", "a", b"\xffk1", 0),
            ("k2", "a", b"\xffk2", 2),
        ]
        assert all(0 <= log.age < AN_HOUR for log in found)
    assert [log.key for log in await ours.adopt("t")] == ["k2"], "listing has changed nothing"
    assert await pending("nothing") == []


async def a_log_that_is_held_is_not_forgotten(connect: Connect) -> None:
    store = connect(lease=SOON)
    await store.open("k", new_log("a", keep=LATER))
    await store.open("gone", new_log("a", keep=LATER))
    await store.open("ended", new_log("a", keep=math.inf))
    await end(store, b"kept", key="ended")

    async def other_is_lost() -> bool:
        assert await store.hold("p", {"k": "a"}, {})
        return await store.read("gone", 0) is None

    await until(other_is_lost, bool)
    assert (await page_of(store, key="ended")).state.end == b"kept"
    await until(partial(store.read, "k", 0), lambda page: page is None)


# ---------------------------------------------------------------- shares


async def _has_room_again(connect: Connect, **limits: int) -> None:
    store = connect(lease=SOON, **limits)
    for number in range(3):
        await store.open(f"k{number}", new_log("a", payload=bytes(30_000), keep=LATER if number == 1 else 60))
    with raises(StoreFull):
        await store.open("k3", new_log("a", payload=bytes(30_000)))
    assert (await store.open("k2", new_log("b"))).id == "a"
    assert (await store.open("k3", new_log("a", payer="bob"))).id == "a"
    await end(store, b"", key="k1")

    async def has_room() -> bool:
        try:
            return (await store.open("k4", new_log("a", payload=bytes(30_000)))).id == "a"
        except StoreFull:
            return False

    await until(has_room, bool)
    assert await store.read("k0", 0) is not None


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
    for after in (0, 5, LAST):
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
    for after, wait in ((40, 0), (41, 30), (LAST, 30)):
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
    added = await add(store, "w", 1, bytes(1000), keep=LATER)
    for sequence in range(2, 41):
        added = await add(store, "w", sequence, bytes(1000), keep=LATER)
    assert 1 < added.state.first < 40
    with raises(StoreFull):
        await add(store, "w", 1, b"x", key="k2")
    await add(store, "w", 1, b"x", key="k2", payer="bob")
    await until(partial(store.read, "k", 0), lambda page: page is None)
    await store.open("k3", new_log("a", payload=bytes(20_000)))


STORE_CHECKS: tuple[Callable[[Connect], Awaitable[None]], ...] = (
    of_many_that_open_a_log_one_gets_its_own,
    a_lease_lapses_and_each_sign_of_life_renews_it,
    an_ended_log_is_forgotten_and_its_key_is_free,
    a_lost_log_is_forgotten_and_its_key_is_free,
    an_ended_log_may_free_its_key,
    a_log_that_has_freed_its_key_does_not_start_again,
    entries_are_read_in_order_from_any_position_and_page_by_page,
    a_repeated_batch_changes_nothing_and_a_gap_is_refused,
    the_first_end_counts_and_an_owner_does_not_end_what_has_lost_entries,
    any_process_ends_a_log_and_its_owner_learns_of_it,
    the_oldest_entries_are_dropped_but_not_the_last,
    a_read_waits_for_an_entry_and_for_the_end,
    a_read_ends_when_its_time_is_over_or_its_store_is_closed_which_a_call_opens,
    readers_count_until_their_process_reports_another_number,
    readers_no_longer_count_when_their_process_is_silent_for_a_lease,
    one_of_many_processes_adopts_a_log,
    a_log_is_adopted_each_time_when_its_lease_has_lapsed,
    a_log_that_its_process_releases_is_lost_at_once,
    of_two_batches_with_one_sequence_the_first_counts,
    the_batch_of_a_log_with_a_topic_is_not_dropped,
    logs_are_adopted_and_listed_the_oldest_first,
    the_pending_logs_of_a_topic_are_listed,
    a_log_that_is_held_is_not_forgotten,
    a_payer_with_too_many_logs_has_room_again_when_one_is_forgotten,
    a_payer_with_too_many_bytes_has_room_again_when_a_log_is_forgotten,
    a_payer_has_a_number_of_bytes,
    a_repeated_add_has_no_second_effect,
    a_reader_of_a_log_learns_whether_its_position_is_still_right,
    a_log_is_forgotten_after_its_last_add_and_starts_anew,
    a_log_counts_for_its_payer,
)
"""Checks of a store, each with a name that says what must hold. A check gets a `Connect`, and raises `AssertionError`.
"""
