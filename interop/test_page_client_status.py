"""What `status` says, in the order in which it changes. Nothing may be thrown or written unseen; see `Page.start`."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from leftovers import nothing_left as nothing_left
from msgspec import msgpack
from waiting import until

from interop.page_client import Notes, Page, Stage, scripted, words
from wsrpc import Handshake, Limits, Server
from wsrpc.testing import FaultProxy

pytestmark = pytest.mark.usefixtures("nothing_left")

STATES = "connecting", "open", "draining", "detached", "closed"

# Each status that a subscriber sees, after the first one.
ROWS = """
plain server, dropped   | connecting open connecting open closed
sessions off, dropped   | connecting open connecting open closed
dropped                 | connecting open detached open closed
killed and back         | connecting open detached connecting open closed
drained                 | connecting open draining connecting open closed
expired                 | connecting open detached open closed
closed with 3000        | connecting open closed
closed with 3003        | connecting open closed
closed with 4410        | connecting open closed
closed with 1008        | connecting open closed
closed with 1000        | connecting open connecting open closed
nobody there            | connecting closed
closed while detached   | connecting open detached closed
kicked while detached   | connecting open detached closed
"""
CELLS = [[cell.strip() for cell in line.split("|")] for line in ROWS.strip().splitlines()]
TABLE: dict[str, str] = dict(CELLS)


def statuses(page: Page) -> str:
    return " ".join(note for note in page.notes.all if note in STATES)


def expires_first(handshake: Handshake) -> None:
    if handshake.bearer_token == "token-1":
        handshake.expires = time.time() + 1  # after the request has begun, on a busy machine, too


@pytest.mark.parametrize("row", TABLE)
async def test_status(row: str) -> None:
    options: dict[str, Any] = {"extensions": False} if row.startswith("plain") else {}
    limits = Limits(close_timeout=1, replay_bytes=0) if row.startswith("sessions off") else Limits(close_timeout=1)
    stage, other = Stage(Server(limits=limits, **options)), Stage(Server(limits=limits))
    if row == "expired":
        stage.server.on_handshake(expires_first)
    async with (
        stage.server.listen() as listener,
        other.server.listen() as second,
        FaultProxy(listener.url) as proxy,
        Page.start("ws://127.0.0.1:1" if row == "nobody there" else proxy.url, statuses=True) as page,
    ):
        if row == "nobody there":
            await page.notes.until("attempt 3")
        else:
            await page.notes.until("open")
            call = await page.call("request")
            await stage.notes.until("began")
        match row.split():
            case [*_, "dropped"]:
                proxy.drop()
            case ["killed", *_]:
                async with proxy.cut():
                    await page.notes.until("detached")
                    await page.do("go", at=second.url)
            case ["drained"]:
                await page.do("go", at=second.url)
                closing = asyncio.create_task(stage.server.close(drain_timeout=30))
                await until(lambda: not stage.server.healthy)
                stage.release()
                await closing
                assert words(await call) == "ok"
            case ["closed", "with", code]:
                await stage.peer.close(int(code), "because")
                told = await call
                assert words(told) == f"ConnectionLost {code} unknown"
            case ["kicked", *_]:
                peer = stage.peer
                async with proxy.cut():
                    await page.notes.until("detached")
                    await peer.close(1008, "because")
                assert words(await call) == "ConnectionLost 1008 unknown"
                assert await page.run("return client.error.message") == "the connection has ended: 1008 because"
            case ["closed", *_]:
                async with proxy.cut():
                    await page.notes.until("detached")
                    await page.do("close")
        if " open " in TABLE[row].removeprefix("connecting open"):
            await page.notes.until("open", 2)
            assert await page.do("ask", name="sync") == "synced"
        if row == "killed and back":
            reason = "not resumed: another process"
            assert (await call)["error"]["message"] == f"the connection has ended: 1006 {reason}"
        if row in ("dropped", "expired"):
            stage.release()
            assert words(await call) == "ok"
        if row == "expired":
            assert page.notes.all.count("attempt 2") == 1  # with a fresh token
        if row.startswith("closed with") and row != "closed with 1000":
            reason = f"the connection has ended: {row.split()[-1]} because"
            assert await page.run("return client.error.message") == reason
            told = await page.do("ask", name="sync")
            assert (words(told), told["error"]["message"]) == (f"ConnectionLost {code} not_sent", reason)
        await page.do("close")
        assert statuses(page) == TABLE[row]


def rejects_two(handshake: Handshake) -> None:
    if handshake.bearer_token in ("token-2", "token-3"):
        handshake.reject(401)


async def test_subscribers_hear_of_each_failed_attempt_and_whether_the_session_resumed() -> None:
    """They heard of changes of the state only: nothing while attempts failed, nor how."""
    stage = Stage(Server(limits=Limits(close_timeout=1)))
    async with stage.server.listen() as listener, FaultProxy(listener.url) as proxy, Page.start() as page:
        stage.server.on_handshake(rejects_two)
        async with proxy.stall():  # it is not open before somebody listens
            await page.do("open", at=proxy.url)
            await page.run("""
            client.status.subscribe((state, resumed) => {
              const { error, retryAt } = client
              const waits = retryAt > Date.now() - 1000 && retryAt < Date.now() + 60_000
              note(["told", state, error?.code ?? "-", retryAt === undefined ? "now" : waits, resumed].join(" "))
            })
            """)
        assert await page.do("ask", name="sync") == "synced"
        proxy.drop()
        await page.notes.until("told open - now true")
        told = [text for text in page.notes.all if text.startswith("told")]
        failed = ["told detached 1006 true false"] * 3  # the drop, and two attempts
        assert told == ["told open - now false", *failed, "told open - now true"]
        await stage.peer.close(1012, "restart")
        await page.notes.until("told connecting 1012 true false")
        await page.notes.until("told open - now false", 2)
        await page.run("client.close(3000, 'log in')")
        assert page.notes.all[-1] == "told closed 3000 now false"


class Drains:
    """A server that says when it drains, and answers only what the test answers."""

    def __init__(self, **limits: int) -> None:
        self.heard = Notes()
        self.limits = limits
        self.ids: dict[str, int] = {}
        self.line: Any = None

    async def receive(self, line: Any, message: Any) -> None:
        self.line = line
        if "a" in message:
            self.ids[message["a"][0]] = message.get("i", 0)
            self.heard.add(message["a"][0])
        elif "e" in message:
            self.heard.add("pong")

    async def control(self, line: Any, text: Any) -> None:
        self.line = line
        told = json.loads(text)["wsrpc"]
        if told["t"] == "hello":
            await self.say(t="welcome", features=["drain", "credit"], limits=self.limits)
        self.heard.add(f"{told['t']} {told.get('after_ms', '')}".strip())

    async def say(self, **control: Any) -> None:
        await self.line.send(json.dumps({"ws-wrapper": False, "wsrpc": control}))

    async def answer(self, event: str) -> None:
        await self.line.send(json.dumps({"i": self.ids[event], "d": 1}))

    async def so_far(self) -> list[str]:
        """What was heard, once the page has answered a request of which it has no handler."""
        await self.line.send(json.dumps({"i": 2 + 2 * len(self.heard.all), "a": ["ping"]}))
        await self.heard.until("pong", self.heard.all.count("pong") + 1)
        return self.heard.all


NEW_CALLS = {
    "request": "client.request('new')",
    "event": "client.emit('new')",
    "stream": "client.stream('new').next()",
    "upload": "client.upload('new', [1])",
    "conversation": "client.open('new')",
}
AFTER: list[Any] = [60_000, 1000, 999, 0, None, -1, "soon", 2**60]


@pytest.mark.parametrize(("work", "after"), [*((True, after) for after in AFTER), (False, 60_000), (False, None)])
async def test_where_new_calls_go_while_the_server_drains(work: bool, after: Any) -> None:
    """A request that would have ended a stream waited until the server had closed."""
    server = Drains()
    goes = work and after == 60_000
    async with scripted(server.receive, server.control) as url, Page.start(url, statuses=True) as page:
        await page.notes.until("open")
        await server.heard.until("hello")
        await server.so_far()
        if work:
            await page.run("client.request('work').catch(() => {})")
            await server.heard.until("work")
        await server.say(**{"t": "drain"} if after is None else {"t": "drain", "after_ms": after})
        await page.notes.until("draining")
        left = await page.run("return client.closesAt === undefined ? null : client.closesAt - Date.now()")
        assert left <= after if after in (60_000, 1000, 999, 0) else left is None
        if not goes:  # with 1000, a timer says so
            await server.heard.until("drain 0")
        for new, code in NEW_CALLS.items():
            await page.run(f"Promise.resolve({code.replace('new', new)}).catch(() => {{}})")
        heard = {*NEW_CALLS} & {*await server.so_far()}
        assert heard == ({"request", "event"} if goes else set())
        assert statuses(page) == "connecting open draining"
        if goes:
            assert "drain 0" not in server.heard.all
            await server.answer("work")  # and not what came later
        await server.heard.until("drain 0")
        await server.line.close(1012)
        for new in {*NEW_CALLS} - heard:
            await server.heard.until(new)  # on the next connection
        assert await page.run("return client.closesAt ?? null") is None
        assert server.heard.all.count("drain 0") == 1


async def test_requests_that_wait_for_a_place_wait_for_the_next_connection() -> None:
    """Those beyond the bound for calls without a connection were refused, though the client had accepted them."""
    server = Drains(running=1)
    async with scripted(server.receive, server.control) as url, Page.start(url, statuses=True) as page:
        await page.notes.until("open")
        await server.heard.until("hello")
        await server.so_far()
        await page.run("""
        for (let number = 0; number < 600; number++) {
          client.request(`call ${number}`).catch(({ message }) => note(message))
        }
        """)
        await server.heard.until("call 0")
        await server.say(t="drain", after_ms=60_000)
        await server.answer("call 0")
        await server.heard.until("drain 0")
        await server.line.close(1012)
        for number in range(1, 600):
            await server.heard.until(f"call {number}")
            await server.answer(f"call {number}")
        assert statuses(page) == "connecting open draining connecting open"


@pytest.mark.parametrize(
    ("answers", "needs"),
    [("items", "client.request('one')"), ("value", "client.stream('count').next().then(({ value }) => value)")],
    ids=["request", "stream"],
)
async def test_a_handler_that_a_draining_server_awaits_may_call_it(answers: str, needs: str) -> None:
    """Such a call waited for the next connection, and the server for the handler."""
    server = Server()
    server.on("one", lambda: 1)
    got: list[Any] = []

    @server.on("count")
    async def count() -> AsyncIterator[int]:
        yield 1

    @server.on_drain
    async def say_farewell() -> None:
        (peer,) = server.peers
        if answers == "value":
            got.append(await peer.request("farewell"))
        else:
            async with peer.stream("farewell") as items:
                got.extend([item async for item in items])

    async with server.listen() as listener, Page.start(listener.url, statuses=True) as page:
        handler = "async () =>" if answers == "value" else "async function* ()"
        result = "return" if answers == "value" else "yield"
        await page.run(f"client.on('farewell', {handler} {{ {result} await {needs} }})")
        await page.notes.until("open")
        await server.close(drain_timeout=60)
        assert got == [1]


async def test_a_subscriber_may_close_call_and_unsubscribe() -> None:
    stage = Stage(Server())
    async with stage.server.listen() as listener, Page.start(listener.url) as page:
        await page.notes.until("open")
        told = await page.run("""
        const seen = []
        const stop = client.status.subscribe((status) => {
          seen.push(status)
          stop()
          throw new Error("a subscriber has failed")
        })
        client.status.subscribe((status) => seen.push("second " + status))
        client.close()
        return seen
        """)
        assert told == ["closed", "second closed"]
        await until(lambda: page.faults)
        assert "a subscriber has failed" in page.faults.pop()


async def test_nobody_hears_of_a_state_after_a_later_one() -> None:
    stage = Stage(Server(limits=Limits(close_timeout=1, replay_bytes=0)))
    async with stage.server.listen() as listener, Page.start(listener.url) as page:
        assert await page.do("ask", name="sync") == "synced"
        await page.run("""
        client.status.subscribe((status) => status === "connecting" && client.close())
        client.status.subscribe((status) => note("second " + status))
        """)
        await stage.peer.close(1012)
        await page.notes.until("second closed")
        assert await page.do("status") == "closed"
        assert [text for text in page.notes.all if text.startswith("second")] == ["second closed"]


async def test_what_a_server_says_that_makes_no_sense() -> None:
    """It is counted, answered or ignored; and nothing is thrown, nor does a call hang that others could end."""
    odd = [
        *("[]", "{", "nothing", '{"a":[]}', '{"a":{"toString":1}}', '{"a":["event"],"c":{"toString":1}}'),
        *('{"a":["x"],"h":{"toString":1},"i":7}', '{"a":[{"toString":1}],"i":9}', '{"i":{"toString":1},"h":1}'),
        *('{"h":{"toString":1},"x":{"message":{"toString":1}},"_":1}', '{"i":12,"x":{"toString":1}}'),
        '{"ws-wrapper":false,"wsrpc":{"t":"credit","h":"x","n":-1,"bytes":null}}',
        '{"ws-wrapper":false,"wsrpc":{"t":"limits","limits":{"message":-5,"running":"many"}}}',
        *('{"ws-wrapper":false,"wsrpc":{"t":"welcome","features":7,"limits":7}}', b"\xc1", b"\x81"),
        *(msgpack.encode({"i": 2**63, "a": ["nobody"]}), msgpack.encode({"h": 2**63, "a": ["nobody"], "i": 11})),
    ]

    async def answer(line: Any, message: Any) -> None:
        if "a" not in message:
            return
        for text in odd:
            await line.send(text)
        error = {"message": {"toString": 1}, "code": {"toString": 1}, "name": 5}
        await line.send(f'{{"i":{message["i"]},"e":{json.dumps(error)},"_":1}}')

    for codec in ("json", "msgpack"):
        async with scripted(answer) as url, Page.start(url, codec=codec) as page:
            told = await (await page.call("request"))
            assert words(told) == "Remote ran"
            assert told["error"]["message"] == "[object Object]"
            counted = await page.do("ignored")
            assert counted["foreign"] >= 8


@pytest.mark.parametrize(("code", "longest"), [(1012, 500), (1001, 2000)])
async def test_a_planned_restart_is_no_failure(code: int, longest: int) -> None:
    """Each of several restarts doubled the delay, unless the connection before it had lasted ten seconds."""
    server = Server()
    async with server.listen() as listener, Page.start(listener.url, statuses=True) as page:
        await page.run("globalThis.on = 0; const { now } = Date; Date.now = () => now() + on; Math.random = () => 1")
        for restart in range(1, 4):
            await page.notes.until("open", restart)
            assert await page.run("on += 2000; return client.request('no').catch(({ code }) => code)")
            (peer,) = server.peers
            await peer.close(code)
            await page.notes.until("connecting", restart + 1)
            delay = await page.run("const delay = client.retryAt - Date.now(); client.connect(); return delay")
        assert longest / 2 < delay <= longest


async def test_an_attempt_that_waits_is_made_at_once() -> None:
    stage = Stage(Server(limits=Limits(close_timeout=1)))
    waits = "return client.retryAt > Date.now() + 60_000"
    async with stage.server.listen() as listener, FaultProxy(listener.url) as proxy, Page.start() as page:
        await page.run("Math.random = () => 1e6")  # pauses take hours
        async with proxy.silence():
            await page.do("open", at=proxy.url)
            await until(lambda: proxy.connections == 1)
            assert await page.run("client.connect(); return client.retryAt ?? null") is None  # it is being made
            proxy.drop()
            await page.run("while (!client.error) await new Promise((resolve) => setTimeout(resolve))")
        assert await page.run(waits)
        assert await page.run("return client.error.code") == 1006
        assert await page.run("client.connect(); client.connect(); return client.retryAt ?? null") is None
        await page.notes.until("open")
        assert await page.run("return client.error ?? null") is None
        assert await page.do("ask", name="sync") == "synced"  # so both sides know the session

        proxy.drop()
        await page.notes.until("detached")
        assert await page.run(waits)
        assert await page.run("client.connect(); client.connect(); return client.retryAt ?? null") is None
        await page.notes.until("open", 2)
        assert await page.do("ask", name="sync") == "synced"
        assert page.notes.all.count("attempt 4") == 0

        proxy.drop()
        await page.notes.until("detached", 2)
        assert await page.run(waits)
        await page.run("client.wake()")
        await page.notes.until("open", 3)
        await page.do("close")
        await page.run("client.wake()")
        assert await page.run("return client.error.message") == "the client is closed"
        assert await page.run("client.connect(); client.connect(); return client.status.get()") == "connecting"
        await page.notes.until("open", 4)
        assert await page.do("ask", name="sync") == "synced"
        assert statuses(page) == "open detached open detached open closed connecting open"


WRONG_TOKEN = "a token has letters, digits and _!#$%&'*+.^`|~-"
WRONG_TARGET = "a client takes one URL, { url, token } or a function"
TARGETS = {
    "() => { throw new Error('not logged in') }": "Error: not logged in",
    "async () => ({ url, token: 'two words' })": f"TypeError: {WRONG_TOKEN}",
    "async () => ({ url, token: 'YWI=' })": f"TypeError: {WRONG_TOKEN}",
    "async () => '/ws'": "TypeError: Invalid URL",
    "() => [url, url]": f"TypeError: {WRONG_TARGET}",
    "() => undefined": f"TypeError: {WRONG_TARGET}",
}


async def test_a_function_without_credentials_is_called_again() -> None:
    stage = Stage(Server(limits=Limits(close_timeout=1)))
    async with stage.server.listen() as listener, Page.start() as page:
        await page.do("open", at=listener.url)
        told = await page.run(f"""
        const url = {json.dumps(listener.url)}
        const changed = () => new Promise((resolve) => setTimeout(resolve))
        const tries = async (fails) => {{
          let calls = 0
          const other = new Client(() => (++calls < 3 ? fails() : url), {{ WebSocket }})
          while (!other.error) await changed()
          const {{ name, message }} = other.error
          while (other.error) await changed()
          const seen = [calls, other.status.get(), await other.request("sync")]
          other.close()
          return [name, message, ...seen]
        }}
        return Promise.all([{", ".join(TARGETS)}].map(tries))
        """)
        ends = [f"the connection has ended: 1006 {error}" for error in TARGETS.values()]
        assert told == [["ConnectionLost", end, 3, "open", "synced"] for end in ends]


@pytest.mark.parametrize("state", ["connecting", "detached"])
async def test_the_function_may_close_the_client_if_the_user_has_to_log_in(state: str) -> None:
    stage = Stage(Server(limits=Limits(close_timeout=1)))
    async with stage.server.listen() as listener, FaultProxy(listener.url) as proxy, Page.start() as page:
        await page.run(f"""
        let isIn = {json.dumps(state == "detached")}
        const client = new Client(() => (isIn || client.close(3000), {json.dumps(proxy.url)}), {{ WebSocket }})
        client.status.subscribe((state) => note(state + " " + client.error?.code))
        globalThis.other = client
        if (isIn) note(await client.request("sync"))
        isIn = false
        """)
        if state == "detached":
            await page.notes.until("synced")
            proxy.drop()
        await page.notes.until("closed 3000")
        assert "detached 1006" in page.notes.all or state == "connecting"
        assert await page.run("return await other.request('sync').catch(({ outcome }) => outcome)") == "not_sent"
        assert proxy.connections == 0
        await page.do("open", at=listener.url)


WRONG = ["undefined", "null", "[url, url]", "{ urls: [url] }", "{ url: null }", "{ token: 'one' }"]
UNUSABLE = {
    "{ url, token: 'two words' }, { WebSocket: class {} }": WRONG_TOKEN,
    "'/ws', { WebSocket: class {} }": "Invalid URL",
    **{f"{wrong}, {{ WebSocket: class {{}} }}": WRONG_TARGET for wrong in WRONG},
    "url, {}": "no WebSocket: pass { WebSocket } of the package ws",
}


async def test_what_no_client_can_connect_with() -> None:
    async with Page.start("ws://127.0.0.1:1") as page:
        told = await page.run(f"""
        delete globalThis.WebSocket
        const url = "ws://127.0.0.1:1", errors = []
        for (const make of [{", ".join(f"() => new Client({arguments})" for arguments in UNUSABLE)}]) {{
          try {{ errors.push(make()) }} catch (error) {{ errors.push(String(error)) }}
        }}
        return errors
        """)
        assert dict(zip(UNUSABLE, told, strict=True)) == {each: f"TypeError: {UNUSABLE[each]}" for each in UNUSABLE}
