"""`Room.request` across processes: each node asks its members, and the first answer wins everywhere."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from cluster_servers import Servers, servers, sessions_of
from core_driver import Blocked
from waiting import until

from wsrpc import Client, Context, Limits, RpcError
from wsrpc._server.rooms.room_requests import ANSWERED
from wsrpc.cluster import ClusterClient
from wsrpc.cluster._nodes.node import BEAT
from wsrpc.errors import BadResult, MessageTooBig, RemoteError, RequestTimeout


async def join(made: Servers, number: int, handler: Callable[..., Any], room: str = "lobby", **options: Any) -> None:
    """Connect a member of a room to a server."""
    client = Client(reconnect=None, **options)
    client.on("confirm", handler)
    client.of("dialogs").on("confirm", handler)
    await made.join(number, client=client)
    made[number].room(room).add(made[number].peers[-1])


VALUES: list[tuple[Any, Any]] = [(None, None), ("ä", str), ([1.5, {"a": [None]}], list[Any]), (b"\x00\xff", bytes)]


@pytest.mark.parametrize(("value", "kind"), VALUES, ids=repr)
async def test_an_answer_of_another_process_wins_and_all_others_are_cancelled(value: Any, kind: Any) -> None:
    hangs = [Blocked() for _ in range(3)]
    heard: list[Any] = []

    async def answer(given: Any, ctx: Context) -> Any:
        heard.append((dict(ctx.metadata), ctx.remaining))
        await until(lambda: all(each.started for each in hangs))
        return given

    async with servers(3) as made:
        for number, each in enumerate(hangs):
            await join(made, number, each)
        await join(made, 1, lambda *args: 7)  # of a wrong type
        await join(made, 1, answer)
        room = made[0].room("lobby").of("dialogs")
        assert await room.request("confirm", value, metadata={"a": "b"}, within=20, returns=kind) == value
        await until(lambda: all(each.cancelled == [ANSWERED] for each in hangs))
    [(metadata, remaining)] = heard
    assert metadata == {"a": "b"} and 10 < remaining <= 20


def fails(error: Exception) -> Callable[..., Any]:
    def handler(*args: Any) -> Any:
        raise error

    return handler


OUTCOMES: dict[str, tuple[Callable[..., Any], Any]] = {
    "raises": (fails(RpcError("no", code="no", data=[1], fields={"why": "so"})), RemoteError),
    "a result of a wrong type": (lambda *args: 7, BadResult),
    "too much for it": (lambda *args: "yes", MessageTooBig),
    "no answer": (Blocked(), RequestTimeout),
}


async def test_an_error_at_another_process_is_raised_if_nobody_answers() -> None:
    async with servers(2) as made, ClusterClient(made.engine, name="shop") as shop:
        await until(lambda: len(made[0].cluster.nodes) == 3)  # that node has no rooms, which is no error
        for case, (handler, _) in OUTCOMES.items():
            await join(made, 1, handler, case, limits=Limits(message_bytes=2000))

        async def ask(asks: Any, case: str) -> None:
            _, expected = OUTCOMES[case]
            question = "?" * 3000 if expected is MessageTooBig else "?"
            with pytest.raises(expected) as raised:
                await asks.room(case).request("confirm", question, within=0.5, returns=str)
            error: Any = raised.value
            assert type(error) is expected
            if expected is RemoteError:
                assert (error.message, error.code, error.data) == ("no", "no", [1]) and error.fields["why"] == "so"

        await asyncio.gather(*(ask(asks, case) for asks in (made[0], shop) for case in OUTCOMES))
        hangs = OUTCOMES["no answer"][0]
        assert isinstance(hangs, Blocked)
        await until(lambda: len(hangs.cancelled) == 2)


async def test_members_and_processes_that_come_meanwhile_are_asked() -> None:
    first, second = Blocked(), Blocked()
    async with servers(2) as made:
        asking = asyncio.ensure_future(made[0].room("lobby").request("confirm", "?"))
        await until(lambda: sessions_of(made[1])[0].active)
        await join(made, 1, first)
        await until(lambda: first.started)
        await made.add()
        await join(made, 2, second)
        await until(lambda: second.started)
        second.go.set()
        assert await asking == ["?"]
        await until(lambda: first.cancelled == [ANSWERED])


@pytest.mark.parametrize("leaving", [0, 2])
async def test_a_process_that_ends_has_not_answered_and_after_a_broken_session_it_is_asked_again(leaving: int) -> None:
    hangs, answers = Blocked(), Blocked()
    async with servers(3) as made:
        made.sort(key=lambda server: server.cluster.nodes[0])  # of two, the first one dials the other one
        await join(made, leaving, hangs)
        await join(made, 2 - leaving, answers)
        asking = asyncio.ensure_future(made[1].room("lobby").request("confirm", "?", within=60))
        await until(lambda: hangs.started and answers.started)
        async with asyncio.timeout(0.1):  # the request does not hold it up
            await made[leaving].close()
        (peer,) = sessions_of(made[max(1, 2 - leaving)])
        await peer.close(1011)
        await until(lambda: answers.cancelled and len(answers.started) == 2, limit=BEAT + 0.1)
        answers.go.set()
        assert await asking == ["?"]
