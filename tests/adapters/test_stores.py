"""The contract of `wsrpc.store`, for each store, on real servers. `test_stores_lost` has what goes wrong."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Generator
from contextlib import suppress
from functools import partial

import pytest
from engine_servers import ServerProcess
from stores_in_use import STORES, Connect, add, items_of, new_run, page_of, state_of, until
from stores_in_use import connect as connect

from wsrpc.store import Page, RunGone, RunState, StoreFull
from wsrpc_adapters import _redis_store

SOON = 0.05
"""Seconds after which something should have happened."""
LATER = 0.5
"""Seconds in which something should not happen, also on a busy machine."""


@pytest.fixture(scope="session")
def servers() -> Generator[Callable[[str], str]]:
    """The URLs of the servers that all tests share, each started when it is first asked for."""
    started: dict[str, ServerProcess] = {}

    def url(kind: str) -> str:
        start = STORES[kind][0]
        if start is not None and kind not in started:
            started[kind] = start()
        return started[kind].url if kind in started else ""

    yield url
    for server in started.values():
        server.kill()


# ---------------------------------------------------------------- keys and claims


async def test_of_many_starts_one_gets_its_run(connect: Connect) -> None:
    stores = [connect() for _ in range(3)]
    runs = [new_run(f"id{number}", arguments=f"[{number}]") for number in range(60)]
    states = await asyncio.gather(*(stores[number % 3].start("k", run) for number, run in enumerate(runs)))
    [winner] = {state.id for state in states}
    [run] = [run for run in runs if run.id == winner]
    assert {state.arguments for state in states} == {run.arguments}
    state = await stores[1].start("k", run)
    assert state == RunState(winner, run.arguments, 1, 0, None, False, 0, False)
    assert (await stores[0].start("k2", new_run("other"))).id == "other"


async def test_a_claim_lapses_and_each_sign_of_life_renews_it(connect: Connect) -> None:
    ours, theirs = connect(lease=SOON), connect(lease=SOON)
    await ours.start("k", new_run("a"))
    for sign in (lambda: ours.append("k", "a", 1, [b"x"]),) * 2 + (lambda: ours.renew({"k": "a"}),):
        lost = await until(partial(state_of, theirs), lambda state: state is not None and state.lost)
        assert lost is not None and (lost.id, lost.end) == ("a", None)
        assert (await theirs.start("k", new_run("b"))).id == "a"
        repeated = await ours.start("k", new_run("a"))
        assert (repeated.id, repeated.lost) == ("a", True), "it changes nothing"
        renewed = await sign()
        assert not (renewed if isinstance(renewed, RunState) else renewed["k"]).lost
    await until(partial(state_of, theirs), lambda state: state is not None and state.lost)
    await theirs.end("k", "a", b"end", lapsed=True)
    state = (await ours.renew({"k": "a"}))["k"]
    assert (state.end, state.lost) == (b"end", False)


@pytest.mark.parametrize("ended", [True, False])
async def test_a_run_is_forgotten_and_its_key_is_free(connect: Connect, ended: bool) -> None:
    store = connect(lease=SOON)
    await store.start("k", new_run("a", keep=LATER, topic="t"))
    await store.append("k", "a", 1, [b"old"])
    await store.read("k", 0, reader="r")

    async def page() -> Page | None:
        if ended:
            with suppress(RunGone):
                await store.end("k", "a", b"")  # repeated, it changes nothing
        return await store.read("k", 0)

    await until(page, lambda page: page is None)
    assert await store.renew({"k": "a"}) == {}
    assert await store.adopt("t") == []
    for call in (store.append("k", "a", 2, [b"x"]), store.end("k", "a", b"")):
        with pytest.raises(RunGone):
            await call
    state = await store.start("k", new_run("b"))
    assert (state.id, state.last, state.readers) == ("b", 0, 0)
    with pytest.raises(RunGone):
        await store.append("k", "a", 1, [b"x"])
    assert await store.renew({"k": "a", "none": "a"}) == {}


async def test_an_ended_run_may_free_its_key(connect: Connect) -> None:
    store = connect(payer_runs=1)
    for id in ("a", "b", "c"):  # each takes the place of the one before, in the share of the payer, too
        state = await store.start("k", new_run(id))
        assert (state.id, state.last, state.end, state.readers) == (id, 0, None, 0)
        assert (await store.start("k", new_run("other"))).id == id
        await store.append("k", id, 1, [b"x"])
        await store.read("k", 0, reader="r")
        await store.end("k", id, b"end", free=True)
        page = await page_of(store)
        assert (page.state.id, page.state.end, list(page.items)) == (id, b"end", [b"x"])
    with pytest.raises(StoreFull):
        await store.start("k2", new_run("a"))


# ---------------------------------------------------------------- items


async def test_items_are_read_in_order_from_any_position_and_page_by_page(connect: Connect) -> None:
    ours, theirs = connect(run_bytes=1 << 24), connect(run_bytes=1 << 24)
    await ours.start("k", new_run("a"))
    items = [b"", bytes(range(256)), b"x" * (64 * 1024 + 1), b"\r\n", *(b"%d" % n * (n % 300) for n in range(3000))]
    await ours.append("k", "a", 1, items[:1])
    state = await ours.append("k", "a", 2, items[1:])
    assert (state.first, state.last) == (1, len(items))
    assert await items_of(theirs) == items
    for after in (0, 1, 2, 3, 700, len(items) - 1):
        page = await page_of(theirs, after)
        assert page.number == after + 1 and list(page.items) == items[after : after + len(page.items)]
        assert sum(map(len, page.items[:-1])) < 64 * 1024
    for after in (len(items), len(items) + 5):
        page = await page_of(theirs, after)
        assert (page.number, list(page.items)) == (after + 1, [])


async def test_an_append_can_be_repeated_and_a_gap_is_refused(connect: Connect) -> None:
    store = connect()
    await store.start("k", new_run("a"))
    for number, items in ((1, b"ab"), (1, b"ab"), (2, b"bcd"), (1, b"a"), (4, b"d"), (5, b"")):
        await store.append("k", "a", number, [bytes([each]) for each in items])
    assert await items_of(store) == [b"a", b"b", b"c", b"d"]
    for key, id, number in (("k", "a", 6), ("k", "b", 5), ("none", "a", 1)):
        with pytest.raises(RunGone):
            await store.append(key, id, number, [b"x"])
    assert await items_of(store) == [b"a", b"b", b"c", b"d"]


async def test_the_first_end_counts_and_an_end_with_another_last_item_is_refused(connect: Connect) -> None:
    store = connect()
    await store.start("k", new_run("a"))
    await store.append("k", "a", 1, [b"x"])
    for id, last in (("b", None), ("a", 0), ("a", 2)):
        with pytest.raises(RunGone):
            await store.end("k", id, b"wrong", last=last)
    assert not (await store.append("k", "a", 2, [b"y"])).lost
    await store.end("k", "a", b"early", lapsed=True)
    assert (await page_of(store)).state.end is None, "its process may have come back meanwhile"
    await store.end("k", "a", b"first \xff", last=2)
    await store.end("k", "a", b"second", last=1)
    with pytest.raises(RunGone):
        await store.append("k", "a", 3, [b"z"])
    page = await page_of(store)
    assert (page.state.end, page.state.lost, list(page.items)) == (b"first \xff", False, [b"x", b"y"])


async def test_the_oldest_items_are_dropped_but_not_the_last(connect: Connect) -> None:
    store = connect(run_bytes=2000)
    await store.start("k", new_run("a"))
    for number in range(1, 101):
        state = await store.append("k", "a", number, [b"%3d" % number + bytes(97)])
    assert state.last == 100 and 80 <= state.first < 90
    page = await page_of(store, 3)
    assert (page.number, len(page.items)) == (state.first, 101 - state.first)
    assert page.items[0] == b"%3d" % state.first + bytes(97) and page.state.first == state.first
    state = await store.append("k", "a", 101, [bytes(5000)])
    assert (state.first, state.last) == (101, 101)
    state = await store.append("k", "a", 102, [b"x"])
    assert (state.first, await items_of(store, 101)) == (102, [b"x"])


# ---------------------------------------------------------------- reading


async def test_a_read_waits_for_an_item_and_for_the_end(connect: Connect) -> None:
    ours, theirs = connect(), connect()
    assert await theirs.read("k", 0, wait=30) is None
    await ours.start("k", new_run("a"))

    async def read_all(reader: str) -> list[bytes]:
        items: list[bytes] = []
        while True:
            page = await theirs.read("k", len(items), reader=reader, wait=30)
            assert page is not None and page.number == len(items) + 1
            items += page.items
            if page.state.end is not None and len(items) == page.state.last:
                return items

    async with asyncio.timeout(20):  # no read waits until its time is over
        readers = [asyncio.create_task(read_all(f"r{number}" if number % 4 else "")) for number in range(40)]
        ahead = asyncio.create_task(theirs.read("k", 40, wait=30))
        await until(partial(state_of, ours), lambda state: state is not None and state.readers == 30)
        for number in range(30):
            await ours.append("k", "a", number + 1, [b"%d" % number])
        await theirs.read("k", 30, wait=SOON)  # meanwhile the others have begun to wait, too
        await ours.end("k", "a", b"")
        for reader in readers:
            assert await reader == [b"%d" % number for number in range(30)]
        while (page := await ahead) is not None and page.state.end is None:  # it may return earlier
            ahead = asyncio.create_task(theirs.read("k", 40, wait=30))
        assert page is not None and not page.items and page.state.last == 30


async def test_a_read_ends_when_its_time_is_over_or_its_store_is_closed_which_a_later_call_opens(
    connect: Connect,
) -> None:
    store = connect()
    await store.start("k", new_run("a"))
    page = await page_of(store, wait=SOON)
    assert (page.number, list(page.items), page.state.last) == (1, [], 0)
    for stop in ("cancel", "close"):
        reading = asyncio.create_task(store.read("k", 0, reader=stop, wait=30))
        await until(partial(state_of, store), lambda state: state is not None and state.readers)
        if stop == "cancel":
            reading.cancel()
        else:
            await store.close()
            await store.close()
        async with asyncio.timeout(20):
            await asyncio.gather(reading, return_exceptions=True)
        await store.leave("k", stop)
    await store.append("k", "a", 1, [b"x"])
    assert list((await page_of(store, wait=30)).items) == [b"x"]


async def test_readers_are_counted_until_they_leave_or_read_no_more(connect: Connect) -> None:
    ours, theirs = connect(lease=SOON), connect(lease=SOON)
    await ours.start("k", new_run("a"))
    waiting = asyncio.create_task(theirs.read("k", 0, reader="waits", wait=30))
    for name in ("reads", "reads", "leaves", ""):
        await theirs.read("k", 0, reader=name)
    await until(lambda: ours.renew({"k": "a"}), lambda states: states["k"].readers == 1)
    await theirs.read("k", 0, reader="leaves", wait=1e-3)
    await theirs.leave("k", "waits")
    await theirs.leave("k", "nobody")
    await theirs.leave("none", "nobody")
    waiting.cancel()
    await asyncio.wait([waiting])
    state = await ours.append("k", "a", 1, [b"x"])
    assert state.readers <= 1
    await until(lambda: ours.renew({"k": "a"}), lambda states: states["k"].readers == 0)


# ---------------------------------------------------------------- stopping and adopting


async def test_the_process_of_a_run_learns_that_it_should_stop(connect: Connect) -> None:
    ours, theirs = connect(), connect()
    await ours.start("k", new_run("a"))
    await theirs.stop("k", "b")
    await theirs.stop("none", "a")
    assert not (await ours.append("k", "a", 1, [b"x"])).stopping
    await theirs.stop("k", "a")
    assert (await ours.append("k", "a", 2, [b"y"])).stopping
    assert (await ours.renew({"k": "a"}))["k"].stopping
    await ours.end("k", "a", b"stopped")
    assert (await page_of(theirs)).state.end == b"stopped"


async def test_one_of_many_processes_adopts_a_run(connect: Connect) -> None:
    stores = [connect(lease=LATER) for _ in range(3)]
    for key in ("k1", "k2", "ended", "elsewhere"):
        topic = "theirs" if key == "elsewhere" else "ours"
        await stores[0].start(key, new_run("a", topic=topic, payload=b"\xff" + key.encode()))
    await stores[0].start("k3", new_run("a"))
    await stores[0].end("ended", "a", b"")
    for key in ("k1", "k2", "elsewhere", "k3"):
        await until(partial(state_of, stores[0], key), lambda state: state is not None and state.lost)
    found = await asyncio.gather(*(stores[number % 3].adopt("ours") for number in range(12)))
    adopted = sorted((run.key, run.id, run.payload) for runs in found for run in runs)
    assert adopted == [("k1", "a", b"\xffk1"), ("k2", "a", b"\xffk2")]
    again = await until(lambda: stores[1].adopt("ours"), bool)
    assert {run.key for run in again} <= {"k1", "k2"}
    assert await stores[1].adopt("nothing") == []


async def test_a_run_that_is_renewed_is_neither_adopted_nor_forgotten(connect: Connect) -> None:
    store, adopted = connect(lease=SOON), list[str]()
    await store.start("k", new_run("a", keep=LATER, topic="t"))
    await store.start("gone", new_run("a", keep=LATER))
    await store.start("ended", new_run("a", keep=math.inf))
    await store.end("ended", "a", b"kept")

    async def other_is_gone() -> bool:
        assert await store.renew({"k": "a"})
        adopted.extend(run.key for run in await store.adopt("t"))
        return await store.read("gone", 0) is None

    await until(other_is_gone, bool)
    assert (await page_of(store, key="ended")).state.end == b"kept"
    await until(partial(store.read, "k", 0), lambda page: page is None)


# ---------------------------------------------------------------- shares


@pytest.mark.parametrize("limits", [{"payer_runs": 3}, {"payer_bytes": 110_000}])
async def test_a_payer_has_room_again_when_a_run_is_forgotten(connect: Connect, limits: dict[str, int]) -> None:
    store = connect(lease=SOON, **limits)
    for number in range(3):
        await store.start(f"k{number}", new_run("a", payload=bytes(30_000), keep=LATER if number == 1 else 60))
    with pytest.raises(StoreFull):
        await store.start("k3", new_run("a", payload=bytes(30_000)))
    assert (await store.start("k2", new_run("b"))).id == "a"
    assert (await store.start("k3", new_run("a", payer="bob"))).id == "a"
    await store.end("k1", "a", b"")

    async def has_room() -> bool:
        try:
            return (await store.start("k4", new_run("a", payload=bytes(30_000)))).id == "a"
        except StoreFull:
            return False

    await until(has_room, bool)
    assert await store.read("k0", 0) is not None


async def test_a_payer_has_a_number_of_bytes(connect: Connect) -> None:
    store = connect(payer_bytes=100_000)
    for key, payer in (("k", "ann"), ("other", "bob")):
        await store.start(key, new_run("a", payer=payer))
        await store.append(key, "a", 1, [bytes(1000)] * 20)
    with pytest.raises(StoreFull):
        await store.start("k2", new_run("a", payload=bytes(80_000)))
    await store.start("k2", new_run("a", payload=bytes(60_000)))
    state = await store.append("k", "a", 21, [bytes(1000)] * 20)
    assert 1 < state.first <= 21 and state.last == 40
    state = await store.append("k", "a", 41, [bytes(90_000)])
    assert (state.first, state.last) == (42, 41)
    page = await page_of(store, 20, wait=30)  # what was dropped is told, and not waited for
    assert (page.number, page.state.first, list(page.items)) == (42, 42, [])
    assert len(await items_of(store, key="other")) == 20
    await store.append("k", "a", 42, [bytes(1000)] * 15)
    with pytest.raises(StoreFull):
        await store.end("k", "a", bytes(90_000))
    assert (await page_of(store, 42)).state.end is None
    await store.end("k", "a", bytes(30_000))
    page = await page_of(store, 42)
    assert page.state.end == bytes(30_000) and page.state.first > 42
    with pytest.raises(StoreFull):
        await store.start("k3", new_run("a", payload=bytes(20_000)))


# ---------------------------------------------------------------- logs

LAST = 2**53 - 1


async def test_a_repeated_add_has_no_second_effect(connect: Connect) -> None:
    ours, theirs = connect(run_bytes=3000), connect(run_bytes=3000)
    writers = [f"w{number}" for number in range(100)]
    for number, writer in enumerate(writers):
        added = await add(theirs, writer, 7, bytes(50))
        assert (added.number, added.before) == (number + 1, f"w{number - 1}.7" if number else "")
    for number, writer in enumerate(writers):  # most of these items have been dropped
        added = await add(ours, writer, 7, bytes(50))
        assert (added.number, added.before) == (number + 1, f"w{number - 1}.7" if number else "")
        assert (added.state.last, added.state.first > 50) == (100, True)
    assert (await add(ours, "w0", 9, b"b", b"c")).number == 101
    assert (await add(theirs, "w1", 8, b"d")).number == 103
    assert (await add(theirs, "w0", 9, b"b", b"c")).number == 101
    for sequence in (7, 10):
        with pytest.raises(RunGone):
            await add(theirs, "w0", sequence, b"x")
    page = await page_of(ours, 100)
    assert (list(page.items), list(page.ids)) == ([b"b", b"c", b"d"], ["w0.9", "w0.10", "w1.8"])


async def test_writers_are_forgotten_after_a_while(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsrpc._keyed.memory_store.REMEMBERED", 0.0)
    steps = _redis_store.STEPS.replace("REMEMBERED = 600000", "REMEMBERED = -1")
    monkeypatch.setattr(_redis_store, "STEPS", steps)
    store = connect()
    for writer, number in (("w", 1), ("w", 1), ("v", 2), ("w", 3)):
        assert (await add(store, writer, 1, b"x")).number == number


async def test_a_reader_of_a_log_learns_whether_its_position_is_still_right(connect: Connect) -> None:
    store = connect(run_bytes=2000, payer_bytes=100_000)
    await add(store, "w", 1)
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
        async with asyncio.timeout(20):  # a log that has lost items is told at once
            page = await page_of(store, after, wait=wait)
        assert (page.number, page.before, list(page.ids)) == (41, "w.40", [])
    added = await add(store, "w", 41, bytes(100_000))  # more than its payer may have
    assert (added.number, added.before, added.state.first, added.state.last) == (41, "w.40", 42, 41)
    page = await page_of(store, 40, wait=30)
    assert (page.number, page.before, list(page.items)) == (42, "w.41", [])
    assert (await add(store, "w", 42, b"x")).before == "w.41"


async def test_a_log_is_forgotten_after_its_last_add_and_begins_anew(connect: Connect) -> None:
    ours, theirs = connect(lease=SOON), connect(lease=SOON)
    await add(ours, "gone", 1, b"x", key="gone", keep=LATER)
    await add(ours, "w", 1, b"x", keep=LATER)

    async def other_is_gone() -> bool:
        await add(ours, "w", 1, b"x", keep=LATER)
        return await theirs.read("gone", 0) is None

    await until(other_is_gone, bool)
    assert await items_of(theirs) == [b"x"]

    async def wait_for_another() -> None:
        while (page := await theirs.read("k", 1, wait=30)) is not None and page.state.id == "log-w":
            pass

    waiting = asyncio.create_task(wait_for_another())
    await until(partial(ours.read, "k", 0), lambda page: page is None)
    added = await add(ours, "w2", 5, b"new", keep=60)
    assert (added.number, added.before, added.state.id) == (1, "", "log-w2")
    async with asyncio.timeout(20):
        await waiting
    await add(ours, "w2", 6, b"x", keep=1e-3)
    await until(partial(ours.read, "k", 0), lambda page: page is None)


async def test_a_log_takes_the_share_of_its_payer(connect: Connect) -> None:
    store = connect(payer_runs=2, payer_bytes=100_000)
    await store.start("run", new_run("a", payload=bytes(60_000)))
    for sequence in range(1, 41):
        added = await add(store, "w", sequence, bytes(1000), keep=LATER)
    assert 1 < added.state.first < 40
    with pytest.raises(StoreFull):
        await add(store, "w", 1, b"x", key="k2")
    await add(store, "w", 1, b"x", key="k2", payer="bob")
    await until(partial(store.read, "k", 0), lambda page: page is None)
    await store.start("k3", new_run("a", payload=bytes(20_000)))
