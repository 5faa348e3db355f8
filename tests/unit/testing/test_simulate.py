"""`simulate`: it finds mistakes, tells them shortly, and says the same for the same seed."""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Any

import pytest

from wsrpc import Client, ConnectionLost, Overloaded, Server
from wsrpc.testing import Simulation, SimulationFailed, simulate


async def serve(server: Server) -> None:
    async with server.listen(port=80):
        await asyncio.Event().wait()


class Shop:
    """A server whose handler is not idempotent, and a client that asks again."""

    def __init__(self, sim: Simulation, keep: float | None) -> None:
        self.asked, self.orders = list[int](), list[int]()
        self.options: Any = {} if keep is None else {"keep": keep}
        self.sim = sim
        self.store = sim.store()
        sim.process("shop", self.serve, serves=True)
        sim.process("customer", self.buy)

    async def serve(self) -> None:
        server = Server(store=self.store)
        server.on_handshake(lambda handshake: setattr(handshake, "principal", "ada"))

        @server.on("order", **self.options)
        async def order(number: int) -> str:
            self.orders.append(number)
            await asyncio.sleep(0.5)
            return "thanks"

        await serve(server)

    async def buy(self) -> None:
        async with Client("ws://shop:80/", proxy=None) as client:
            async for number in self.sim.steps(20):
                self.sim.note(f"orders {number}")
                self.asked.append(number)
                options: Any = {"key": f"order-{number}"} if self.options else {}
                while True:
                    try:
                        await client.request("order", number, **options)
                        break
                    except (ConnectionLost, Overloaded) as exc:
                        self.sim.note(f"asks again after {exc!r}")
                await asyncio.sleep(3.0)


def shop(sim: Simulation) -> Iterator[None]:
    made = Shop(sim, None)
    yield
    assert len(made.orders) == len(set(made.orders)), "an order was made twice"


def better_shop(sim: Simulation) -> Iterator[None]:
    made = Shop(sim, 600.0)
    yield
    assert made.orders == made.asked


HARMLESS = ["pause", "clock", "cut", "isolate", "slow", "reset", "forget"]


def test_a_handler_that_is_not_idempotent_is_found_and_its_story_is_short() -> None:
    with pytest.raises(SimulationFailed) as failed:
        simulate(shop, faults=["kill", "reset", "pause"])
    text = str(failed.value)
    assert text.startswith(f"seed {failed.value.seed} fails:")
    assert "an order was made twice" in text and "asks again after" in text
    assert text.count("is killed") <= 2 and text.count(": orders ") <= 2, text
    with pytest.raises(SimulationFailed) as again:
        simulate(shop, seed=failed.value.seed, faults=["kill", "reset", "pause"])
    story, _, _ = text.partition("Traceback")
    assert str(again.value).startswith(story)


def test_an_application_that_is_right_passes() -> None:
    simulate(better_shop, seed=range(30), faults=HARMLESS)


PROGRAM = """
import sys
sys.path[:0] = sys.argv[1:]
from test_simulate import better_shop
from wsrpc.testing import Simulation
from wsrpc.testing._simulation.faults import FAULTS, plan, schedule_faults
from wsrpc.testing._simulation.world import World
from random import Random
world = World(16, plan(Random("16"), 60.0, 8, list(FAULTS)))
schedule_faults(world)
world.run(lambda: better_shop(Simulation(world)))
print(*world.story, *world.problems, world.events.now, sep="\\n")
"""


def test_the_same_seed_is_the_same_story_in_each_process() -> None:
    told = []
    for number in ("1", "2"):
        command = [sys.executable, "-c", PROGRAM, *sys.path]
        told.append(subprocess.check_output(command, env={**os.environ, "PYTHONHASHSEED": number}, text=True))
    assert told[0] == told[1] and told[0].count("\n") > 20


def test_time_and_randomness_are_those_of_the_simulation_while_it_runs() -> None:
    seen: list[Any] = []

    def application(sim: Simulation) -> None:
        async def main() -> None:
            began = time.monotonic(), time.time()
            await asyncio.sleep(300)
            assert 300 <= time.monotonic() - began[0] < 301 > time.time() - began[1] >= 300
            assert await asyncio.to_thread(lambda: 5) == 5
            seen.append((random.random(), secrets.token_hex(4), os.urandom(4), sim.random.random(), sim.now))

        sim.process("alone", main)

    before = random.getstate()
    simulate(application, seed=[1, 1, 2], faults=())
    assert seen[0] == seen[1] != seen[2] and random.getstate() == before
    assert abs(time.time() - seen[0][-1]) > 1e6


@pytest.mark.parametrize(
    ("mistake", "said"),
    [
        ("raises", "LookupError: no"),
        ("waits for ever", "first has not ended:"),
        ("is not answered", "first waits for send_request('wait'), test_simulate.py:"),
        ("leaves a task", "first: a task is left: <Task pending"),
        ("fails in a handler", "second logs: handling fail failed"),
        ("is always wrong", "AssertionError: wrong after"),
        ("looks for a stranger", "there is no process 'stranger' in the simulation"),
        ("adds a store too late", "RuntimeError: add processes, the store and the engine outside of the processes"),
        ("uses a file descriptor", "in a simulation, an event loop waits for no file descriptor"),
        ("sleeps", "in a simulation, nothing waits outside of asyncio: use asyncio.sleep()"),
        ("checks nothing", "TypeError: a check raises an exception if something is wrong; "),
        ("adds a process twice", "ValueError: there is a process 'first' already"),
        ("adds only servers", "ValueError: nothing runs: add a process without serves=True"),
        ("yields twice", "RuntimeError: an application has one `yield`"),
    ],
)
def test_what_is_wrong_is_said(mistake: str, said: str) -> None:
    def application(sim: Simulation) -> Iterator[None]:
        def check() -> object:
            assert mistake != "is always wrong" or sim.now < 5, f"wrong after {sim.now:.1f} s"
            return False if mistake == "checks nothing" else None

        sim.always(check)

        async def first() -> None:
            if mistake == "raises":
                raise LookupError("no")
            if mistake == "waits for ever":
                await asyncio.Event().wait()
            if mistake == "leaves a task":
                left.append(asyncio.create_task(asyncio.Event().wait()))
            if mistake == "looks for a stranger":
                await asyncio.get_running_loop().create_connection(asyncio.Protocol, "stranger", 80)
            if mistake == "uses a file descriptor":
                asyncio.get_running_loop().add_reader(0, print)
            if mistake == "adds a store too late":
                sim.store()
            if mistake == "sleeps":
                time.sleep(1)
            await asyncio.sleep(10)
            async with Client("ws://second:80/", proxy=None) as client:
                if mistake == "is not answered":
                    await client.request("wait", timeout=None)
                await client.emit("fail")
                await client.request("fine")

        async def second() -> None:
            server = Server()
            server.on("fail", lambda: 1 / 0 if mistake == "fails in a handler" else None)
            server.on("fine", lambda: None)
            server.on("wait", asyncio.Event().wait)
            await serve(server)

        sim.process("first", first, serves=mistake == "adds only servers")
        sim.process("first" if mistake == "adds a process twice" else "second", second, serves=True)
        yield
        if mistake == "yields twice":
            yield

    left: list[Any] = []
    with pytest.raises(SimulationFailed) as failed:
        simulate(application, seed=1, faults=())
    assert said in str(failed.value)


async def coroutine(sim: Simulation) -> None: ...


async def generator(sim: Simulation) -> AsyncIterator[None]:
    yield


@pytest.mark.parametrize(
    ("application", "seed", "said"),
    [
        (coroutine, 1, "an application is a plain function or generator"),
        (generator, 1, "an application is a plain function or generator"),
        (shop, "13", "seed= is an integer, or several, got '13'"),
        (shop, [1.5], "seed= is an integer"),
        (shop, range(0), "nothing would run"),
    ],
)
def test_what_would_run_nothing_is_refused(application: Any, seed: Any, said: str) -> None:
    with pytest.raises((TypeError, ValueError), match=said):
        simulate(application, seed=seed)


async def test_a_coroutine_that_simulates_is_refused() -> None:
    with pytest.raises(RuntimeError, match="outside of coroutines"):
        simulate(lambda sim: None)


def test_a_process_that_is_paused_and_then_stopped_ends_when_the_others_have_ended() -> None:
    """It started again after that, and was never cancelled."""

    def application(sim: Simulation) -> None:
        async def slow() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0.02)

        sim.process("first", slow, serves=True)
        sim.process("second", slow, serves=True)
        sim.process("other", partial(asyncio.sleep, 10.0))

    simulate(application, seed=range(100), faults=["pause", "stop"])


def test_a_kind_of_fault_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match=r"faults= are some of kill, power, .*; got 'fire'"):
        simulate(better_shop, faults=["fire"])
