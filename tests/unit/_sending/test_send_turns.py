"""The queue of those who wait while the line is full."""

from __future__ import annotations

import asyncio
from functools import partial

from core_driver import start, turns

from wsrpc import QueueFull
from wsrpc._base.scheduler import LoopScheduler
from wsrpc._sending.turns import SendTurns, Turn
from wsrpc._session.waiting import WaitingMessage


class Queue:
    """A full line and senders that note when it is their turn."""

    def __init__(self) -> None:
        self.full = True
        self.line = SendTurns(LoopScheduler(), lambda: self.full)
        self.sent: list[int] = []
        self.fill_again = False

    async def send(self, n: int) -> None:
        turn = Turn(self.line)
        try:
            await turn.wait()
            while self.full:
                await turn.wait()
            self.sent.append(n)
            if self.fill_again:
                self.full = True
        finally:
            turn.end()

    async def senders(self, count: int) -> list[asyncio.Task[None]]:
        tasks = [start(self.send(n)) for n in range(count)]
        await turns(2)
        return tasks

    def clear(self) -> None:
        self.full = False
        self.line.wake()


async def test_they_go_one_after_another_in_the_order_in_which_they_came() -> None:
    queue = Queue()
    await queue.senders(5)
    assert queue.sent == [] and queue.line.busy
    queue.clear()
    assert queue.line.busy  # somebody has the turn and has not sent yet
    await turns()
    assert queue.sent == [0, 1, 2, 3, 4]
    assert not queue.line.busy


async def test_one_at_a_time_if_each_fills_the_connection() -> None:
    queue = Queue()
    queue.fill_again = True
    await queue.senders(3)
    for count in (1, 2, 3):
        queue.clear()
        queue.clear()  # saying it twice wakes nobody twice
        await turns()
        assert queue.sent == list(range(count))


async def test_who_leaves_before_its_turn_is_skipped() -> None:
    queue = Queue()
    tasks = await queue.senders(4)
    tasks[0].cancel()
    tasks[2].cancel()
    queue.clear()
    await turns()
    assert queue.sent == [1, 3] and not queue.line.busy


async def test_who_leaves_with_the_turn_passes_it_on() -> None:
    queue = Queue()
    tasks = await queue.senders(3)
    queue.clear()
    tasks[0].cancel()
    tasks[1].cancel()
    await turns()
    assert queue.sent == [2] and not queue.line.busy


async def test_who_was_woken_twice_and_leaves_passes_on_one_turn() -> None:
    queue = Queue()
    tasks = await queue.senders(4)
    queue.clear()
    queue.full = True  # the first one is woken, finds the line full, and waits at the head of the queue
    await turns(2)
    queue.clear()
    tasks[0].cancel()
    asyncio.get_running_loop().call_soon(setattr, queue, "full", True)  # before the next one sends
    await turns()
    assert queue.sent == []
    queue.clear()
    await turns()
    assert queue.sent == [1, 2, 3] and not queue.line.busy


async def test_when_all_leave_the_connection_is_free() -> None:
    queue = Queue()
    tasks = await queue.senders(3)
    queue.clear()
    for task in tasks:
        task.cancel()
    await turns()
    assert queue.sent == [] and not queue.line.busy


async def test_when_the_session_ends_messages_leave_in_order() -> None:
    queue = Queue()
    left: list[int] = []

    def leave(number: int) -> WaitingMessage:
        left.append(number)
        if number == 2:
            raise QueueFull("no more")
        return WaitingMessage(b"", True)

    leaving = [Turn(queue.line, leave=partial(leave, number)) for number in range(4)]
    staying = Turn(queue.line)
    tasks = [start(turn.wait()) for turn in (*leaving, staying)]
    await turns(2)
    queue.clear()  # the first one is woken, and has not gone on
    queue.line.end_all(leave=True)
    assert left == [0, 1, 2, 3]
    tasks[3].cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [turn.left is not None for turn in (*leaving, staying)] == [True, True, False, True, False]
    assert isinstance(results[2], QueueFull) and isinstance(results[3], asyncio.CancelledError)
    assert not staying.held and not queue.line.busy


async def test_when_nothing_can_leave_all_are_woken() -> None:
    queue = Queue()
    turn = Turn(queue.line, leave=lambda: WaitingMessage(b"", True))
    task = start(turn.wait())
    await turns(2)
    queue.line.end_all()
    await task
    assert turn.left is None and not turn.held


async def test_the_end_of_a_connection_wakes_what_is_bound_to_it_without_giving_it_the_turn() -> None:
    queue = Queue()
    bound = [Turn(queue.line, bound=True) for _ in range(3)]
    waiting = [start(turn.wait()) for turn in bound]
    await queue.senders(1)
    queue.full = False
    queue.line.drop_bound()
    queue.line.wake()
    await asyncio.gather(*waiting)
    assert not any(turn.held for turn in bound)
    for turn in bound:
        turn.end()  # of a turn that it never had
    await turns()
    assert queue.sent == [0] and not queue.line.busy


async def test_the_end_of_a_connection_while_somebody_has_the_turn() -> None:
    queue = Queue()
    await queue.senders(3)
    queue.clear()
    queue.line.drop_bound()
    await turns()
    assert queue.sent == [0, 1, 2] and not queue.line.busy


async def test_very_many_that_leave_in_any_order_leave_nothing() -> None:
    queue = Queue()
    tasks = await queue.senders(1000)
    for task in (*tasks[::-2], *tasks[::2], *tasks):
        task.cancel()
    await turns(3)
    assert all(task.done() for task in tasks)
    queue.clear()
    assert not queue.line.busy
