"""Every program in examples/ is run, as its reader would run it."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path

import pytest
from programs import listening, printed_by

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
PAIR = {"server.py", "client.py"}
ALONE = sorted(path.name for path in EXAMPLES.glob("*.py") if path.name not in PAIR)


async def start(name: str, *arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", str(EXAMPLES / name), *arguments),
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "adapters")])},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def run(name: str, *arguments: str) -> str:
    return await printed_by(await start(name, *arguments))


@pytest.mark.parametrize("name", ALONE)
async def test_an_example_that_needs_nothing_else_runs(name: str) -> None:
    assert await run(name)


async def test_the_demo_shows_each_thing_once() -> None:
    printed = (await run("demo.py")).splitlines()
    shown = ["add(", "middle(", "double(", "greet(", "nap(", "withdraw(", "never ran", "event say("]
    shown += ["stream squares(", "total("]
    shown += ["was cut in the middle"]
    shown += ["went away (1012 ", "'unknown'", "waited = ", "subscribed again", "could end = "]
    assert len(printed) == len(shown)
    assert [part for part, line in zip(shown, printed, strict=True) if part not in line] == []


async def test_the_demo_fails_when_something_is_not_as_it_should_be(tmp_path: Path) -> None:
    wrong = (EXAMPLES / "demo.py").read_text("utf-8").replace("return a + b", "return a - b")
    (tmp_path / "demo.py").write_text(wrong, "utf-8")
    process = await start(str(tmp_path / "demo.py"))
    _, err = await process.communicate()
    assert process.returncode == 1
    assert "demo failed: expected 5, got -1" in err.decode()


async def test_the_demo_fails_when_the_restart_goes_wrong(tmp_path: Path) -> None:
    wrong = (EXAMPLES / "demo.py").read_text("utf-8").replace("close(drain=10)", "close()")
    (tmp_path / "demo.py").write_text(wrong, "utf-8")
    process = await start(str(tmp_path / "demo.py"))
    _, err = await process.communicate()
    assert process.returncode == 1
    assert "ConnectionLost" in err.decode()


async def test_a_client_survives_that_its_server_is_killed() -> None:
    *deaths, end = (await run("survives_kill.py")).splitlines()
    assert deaths == ["the server was killed by SIGKILL and is started again"] * 2
    assert end == "30 lines were added once each, and seen once each"


async def test_a_fleet_registers_before_its_reports_come_after_each_restart() -> None:
    *servers, end = (await run("fleet.py")).splitlines()
    reports = [0, 40, 80, 120]
    assert servers == [
        f"server {number}: 20 agents are well, {count} reports have come" for number, count in enumerate(reports)
    ]
    assert end == "each agent's 7 reports have come, once each"


async def test_server_and_client_talk_to_each_other() -> None:
    async with listening(await start("server.py", "0")) as url:
        printed = (await run("client.py", url)).splitlines()
    assert printed[0] == "somebody shouted 'welcome, 1 of you are here'"
    assert re.fullmatch(r"the server's clock says \d\d:\d\d:\d\d UTC", printed[1])
    assert printed[2:] == ["nowhere is 48 hours east [unknown_zone]", "0 others heard it", "bye"]


async def test_a_download_shows_its_progress() -> None:
    *progress, end = (await run("download.py")).splitlines()
    size = 4 * 1024 * 1024
    received = re.findall(rf"^sample.bin: \d+ %, (\d+) of {size} bytes$", "\n".join(progress), re.MULTILINE)
    assert len(received) == len(progress) == 5
    assert received == sorted(received, key=int) and received[-1] == str(size)
    assert re.fullmatch(r"sample.bin: complete, SHA-256 \w{16}…", end)


async def test_a_download_takes_any_file(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    [end] = (await run("download.py", str(tmp_path / "empty"))).splitlines()
    assert "complete" in end


async def test_an_upload_arrives_and_one_that_is_too_large_is_stopped() -> None:
    size = (EXAMPLES / "upload.py").stat().st_size
    assert (await run("upload.py")).splitlines() == [
        f"upload.py: {size} bytes arrived; meanwhile the server said [{size}]",
        "nobody wants more: the generator was closed",
        "refused: no more than 1048576 bytes [too_big]",
        "on the server: upload.py",
    ]


async def test_a_slow_consumer_of_a_live_feed_skips_what_it_has_no_time_for() -> None:
    *ticks, end = (await run("live_feed.py")).splitlines()
    seen = re.findall(r"^tick (\d+), (\d+) were skipped; 1 watching$", "\n".join(ticks), re.MULTILINE)
    numbers = [int(number) for number, _ in seen]
    assert len(numbers) == len(ticks) == 5
    assert numbers == sorted({*numbers})
    assert sum(int(skipped) for _, skipped in seen) == numbers[-1] - 5
    assert end == f"left after 5 of {numbers[-1]} ticks; 0 watching"


async def test_a_client_that_subscribes_again_misses_nothing() -> None:
    printed = (await run("resubscribe.py")).splitlines()
    back = printed.pop(1)
    assert re.fullmatch(r"reconnected in \d+ attempt\(s\), with 1 headline\(s\)", back)
    assert printed == ["It rains", "Published while the server is down", "The sun is back"]


async def test_a_chat_is_a_conversation_over_one_channel_each() -> None:
    assert (await run("chat.py")).splitlines() == [
        "Ada hears    Ada is here",
        "Bob hears    Bob is here",
        "Ada hears    Bob is here",
        "Bob asks who Ada Bob",
        "Ada hears    Bob: hello!",
        "Bob hears    Bob: hello!",
        "Bob hears    Ada is here already [taken]",
        "Bob hears    goodbye",
        "Ada left     bored",
    ]


async def test_an_aiohttp_application_has_pages_and_a_websocket() -> None:
    assert (await run("aiohttp_app.py")).splitlines() == [
        "1 + 2 is 3",
        "Ada hears: Bob is here",
        "page: connected: Ada, Bob",
        "answer: 2 heard it",
        "Ada hears: lunch is ready",
        "Bob hears: lunch is ready",
    ]


async def test_a_fastapi_application_has_a_websocket_beside_its_routes() -> None:
    assert (await run("fastapi_app.py")).splitlines() == [
        "without a token: 401",
        "apples left: 1",
        "Ada hears: Bob bought 2 apples",
        "Ada is told: only 1 left [sold_out]",
        "Ada hears: there are 6 apples",
        'a route says: {"apples":6}',
    ]


async def test_workers_keep_rooms_together_also_when_one_goes() -> None:
    assert (await run("workers.py")).splitlines() == [
        "8 clients of 4 rooms, those of one room at one worker",
        "the attic hears: hello",
        "one worker went, its rooms are together elsewhere: still here",
    ]


async def test_a_plain_chat_takes_less_than_40_lines() -> None:
    assert len((EXAMPLES / "plain_chat.py").read_text("utf-8").splitlines()) < 40
    printed = (await run("plain_chat.py")).splitlines()
    # Each has a connection of its own: which of them hears first is open.
    assert [line for line in printed if line.startswith("Ada")] == [
        "Ada joins, 1 is here",
        "Ada reads Bob is here",
        "Ada reads Bob: hello, Ada",
    ]
    assert [line for line in printed if line.startswith("Bob")] == [
        "Bob joins, 2 are here",
        "Bob reads Ada: hello, Bob",
    ]
    assert len(printed) == 5


async def test_each_path_is_a_room() -> None:
    printed = (await run("rooms_by_path.py")).splitlines()
    heard = {name: [line for line in printed if line.startswith(name)] for name in ("Ada", "Bob", "Eve", "heard")}
    assert heard == {
        "Ada": ["Ada in /chat/general hears: lunch is ready"],
        "Bob": ["Bob in /chat/general hears: hello, general", "Bob in /chat/general hears: lunch is ready"],
        "Eve": [
            "Eve in /chat/administrators hears: is anybody there?",
            "Eve in /chat/administrators hears: lunch is ready",
        ],
        "heard": ["heard by 1", "heard by 1", "heard by 3"],
    }


async def test_a_slow_reader_of_a_price_feed_gets_the_latest() -> None:
    printed = (await run("price_feed.py")).splitlines()
    # On a busy machine a handler may take long, of which the log also tells.
    assert [line for line in printed if "held the event loop" not in line] == [
        "without the plan: not allowed",
        "the log says: reads too slowly: until its connection has drained, broadcasts are dropped (keep_latest)",
        "quick: none missed, the last of each symbol: [8998, 8999, 9000]",
        "slow: some missed, the last of each symbol: [8998, 8999, 9000]",
    ]


async def test_a_service_is_an_object_for_each_connection() -> None:
    assert (await run("service.py")).splitlines() == [
        "Ada reads: 0 things sold today",
        "Ada has 2 in the basket",
        "Ada has 3 in the basket",
        "Ada buys apple apple pear",
        "a customer left (1000) with 0 things in the basket",
        "Bob reads: 3 things sold today",
        "Bob has 2 in the basket",
        "Bob has 3 in the basket",
        "a customer left (1000) with 3 things in the basket",
    ]
