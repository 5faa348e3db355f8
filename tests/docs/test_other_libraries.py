"""The programs of the guides for those who come from another library: before and after, the user sees the same."""

from __future__ import annotations

import asyncio
import json
from asyncio.subprocess import STDOUT
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import aiohttp
import httpx
import pytest
import socketio
import socketio.exceptions
from pages import commands
from programs import ENVIRONMENT, PYTHON, ROOT, UVICORN, WSRPC, free_port, listening, printed_by, start
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as open_websocket
from websockets.exceptions import InvalidStatus

from wsrpc import Client, HandshakeRejected, RemoteError
from wsrpc.testing import FaultProxy

PROGRAMS = ROOT / "examples" / "from_other_libraries"
FLASK = r"Running on (http://127\S+)"
WSRPC_UVICORN = ("--ws", "wsrpc_adapters.uvicorn:WebSocketProtocol")


@asynccontextmanager
async def program(pattern: str, *command: str, **options: Any) -> AsyncGenerator[str]:
    """Run a program of the folder as its docstring says. Yields its URL, without a slash at its end."""
    process = await start(PYTHON[0], *command, **{"cwd": PROGRAMS, **options})
    async with listening(process, pattern) as url:
        yield url.rstrip("/")


# ---------------------------------------------------------------- chats: Flask-SocketIO and Django Channels


class User(Protocol):
    """A user's program. It joins the lobby whenever it has connected."""

    heard: asyncio.Queue[tuple[str, str]]

    async def connect(self, url: str, headers: dict[str, str]) -> None: ...
    async def say(self, text: str) -> int: ...
    async def back(self) -> None:
        """Return when the user is in the lobby again, after a drop."""

    async def close(self) -> None: ...


class SocketIOUser:
    def __init__(self) -> None:
        self.heard: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
        self._session = aiohttp.ClientSession()  # which python-socketio would not close after a refusal
        self._client = socketio.AsyncClient(reconnection=False, http_session=self._session)
        self._client.on("said", lambda name, text: self.heard.put_nowait((name, text)))
        self._client.on("question", lambda text: f"{text} yes")

    async def connect(self, url: str, headers: dict[str, str]) -> None:
        self._where = url, headers
        try:
            await self._client.connect(url, dict(headers), transports=["websocket"], wait_timeout=60)
        except socketio.exceptions.ConnectionError:
            await self._session.close()
            raise PermissionError from None
        await self._client.call("join")

    async def say(self, text: str) -> int:
        return int(await self._client.call("say", text))

    async def back(self) -> None:
        await self._client.wait()
        await self.connect(*self._where)

    async def close(self) -> None:
        await self._client.disconnect()
        await self._session.close()


class ChannelsUser:
    def __init__(self) -> None:
        self.heard: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
        self._ids, self._answers = count(1), dict[int, asyncio.Future[int]]()

    async def connect(self, url: str, headers: dict[str, str]) -> None:
        self._where = f"{url}/ws", headers
        await self.back()

    async def back(self) -> None:
        try:
            self._websocket = await open_websocket(self._where[0], additional_headers=self._where[1])
        except InvalidStatus as error:
            raise PermissionError(error.response.status_code) from None
        self._reading = asyncio.create_task(self._read(self._websocket))

    async def _read(self, websocket: ClientConnection) -> None:
        async for text in websocket:
            match json.loads(text):
                case {"type": "said", "name": name, "text": said}:
                    self.heard.put_nowait((name, said))
                case {"type": "answer", "id": number, "value": value}:
                    self._answers[number].set_result(value)

    async def say(self, text: str) -> int:
        number = next(self._ids)
        self._answers[number] = asyncio.get_running_loop().create_future()
        await self._websocket.send(json.dumps({"type": "say", "id": number, "text": text}))
        return await self._answers[number]

    async def close(self) -> None:
        await self._websocket.close()


class WsrpcUser:
    path = ""

    def __init__(self) -> None:
        self.heard: asyncio.Queue[tuple[str, str]] = asyncio.Queue()

    async def connect(self, url: str, headers: dict[str, str]) -> None:
        self.client = Client(f"{url}{self.path}", headers=headers, connect_timeout=60)
        self.client.on("said", lambda name, text: self.heard.put_nowait((name, text)))
        self.client.on("question", lambda text: f"{text} yes")
        try:
            await self.client.connect()
        except HandshakeRejected:
            raise PermissionError from None
        await self.join()

    async def join(self) -> None:
        await self.client.request("join")

    async def back(self) -> None:
        """Nothing is to be done: the session resumes."""

    async def say(self, text: str) -> int:
        return await self.client.request("say", text, returns=int)

    async def close(self) -> None:
        await self.client.close()


class WsrpcUserOfDjango(WsrpcUser):
    path = "/ws"

    async def join(self) -> None:
        """The server adds each user to the lobby."""


async def refused(user: User, url: str, headers: dict[str, str]) -> bool:
    try:
        await user.connect(url, headers)
    except PermissionError:
        return True
    await user.close()
    return False


async def chat(make: Callable[[], User], site: str, url: str, origin: str | None = None) -> dict[str, object]:
    """What the users of a site see, whose WebSocket server is at a URL."""
    seen: dict[str, object] = {}
    async with AsyncExitStack() as stack:
        users = []
        proxy = await stack.enter_async_context(FaultProxy(url := url.replace("http", "ws", 1)))
        for name, where in (("ada", url), ("bob", proxy.url)):
            async with httpx.AsyncClient(base_url=site) as browser:
                (await browser.post(f"/login/{name}", data={"password": "secret"})).raise_for_status()
                cookie = "; ".join(f"{key}={value}" for key, value in browser.cookies.items())
            if name == "ada":
                strange = {"Cookie": cookie, "Origin": "https://evil.example"}
                seen["a page of another site is refused"] = await refused(make(), where, strange)
                seen["who is not logged in is refused"] = await refused(make(), where, {})
            user = make()
            await user.connect(where, {"Cookie": cookie, "Origin": origin or where.replace("ws", "http", 1)})
            stack.push_async_callback(user.close)
            users.append(user)
        ada, bob = users
        http = await stack.enter_async_context(httpx.AsyncClient(base_url=site, timeout=60))
        seen["say returns"] = await ada.say("hello")
        seen["others hear"] = await bob.heard.get()
        (await http.post("/announce", data={"text": "lunch"})).raise_for_status()
        seen["then ada hears"] = await heard_until("lunch", ada)
        seen["then bob hears"] = await heard_until("lunch", bob)
        asked = await http.post("/ask/ada", data={"text": "hungry?"})
        seen["a view asks ada"] = asked.text if asked.status_code != 404 else None
        async with proxy.cut():
            await ada.say("while bob is away")
        await bob.back()
        await ada.say("is bob back?")
        seen["after a drop, bob hears"] = await heard_until("is bob back?", bob)
    return seen


async def heard_until(text: str, user: User) -> list[tuple[str, str]]:
    heard = [await user.heard.get()]
    while heard[-1][1] != text:
        heard.append(await user.heard.get())
    return heard


HELLO = ("ada", "hello")
MISSED = ("ada", "while bob is away")


def seen_in_chat(site: str, *missed: tuple[str, str], echo: bool) -> dict[str, object]:
    """With ``echo``, the room sends what ada says to her, too, and a view cannot ask her, in Channels."""
    return {
        "a page of another site is refused": True,
        "who is not logged in is refused": True,
        "say returns": 5,
        "others hear": HELLO,
        "then ada hears": [*([HELLO] if echo else []), (site, "lunch")],
        "then bob hears": [(site, "lunch")],
        "a view asks ada": None if echo else "hungry? yes",
        "after a drop, bob hears": [*missed, ("ada", "is bob back?")],
    }


async def test_a_chat_with_flask_socketio() -> None:
    async with program(FLASK, "flask_socketio_before.py", str(free_port())) as site:
        seen = await chat(SocketIOUser, site, site)
    assert seen == seen_in_chat("Flask", echo=False)


async def test_the_chat_of_flask_socketio_with_wsrpc() -> None:
    port = str(free_port())
    origin = f"http://127.0.0.1:{port}"
    [flask], [python] = (commands("migrate-socketio", name) for name in ("flask", "python"))
    async with (
        program(WSRPC, *python.split()[1:], "0", origin) as live,
        program(FLASK, "-m", *flask.split(), "--port", port, env={"LIVE_URL": live}) as site,
    ):
        seen = await chat(WsrpcUser, site, live, origin)
        async with httpx.AsyncClient(base_url=site) as browser:
            assert (await browser.get("/wsrpc/client.js")).is_success
            await browser.post("/login/eve")
            headers = {"Cookie": f"session={browser.cookies['session']}"}
        async with Client(live, headers=headers) as eve:
            for call in (("announce", "Flask", "a lie"), ("ask", "ada", "who are you?")):
                with pytest.raises(RemoteError) as rejected:
                    await eve.request(*call)
                assert rejected.value.code == "forbidden"
    assert seen == seen_in_chat("Flask", MISSED, echo=False)


@asynccontextmanager
async def django_project(folder: Path, name: str, *options: str) -> AsyncGenerator[str]:
    """A program in the project of django_site.py, which keeps its users in a file of the folder."""
    env = {"PYTHONPATH": f"{PROGRAMS}:{ENVIRONMENT['PYTHONPATH']}"}
    for user in ("ada", "bob"):
        await printed_by(await start(PYTHON[0], str(PROGRAMS / "django_site.py"), user, "secret", cwd=folder, env=env))
    command = ("-m", "uvicorn", f"{name}:application", "--port", "0", *options)
    async with program(UVICORN, *command, cwd=folder, env=env) as site:
        yield site


async def test_a_chat_with_channels(tmp_path: Path) -> None:
    async with django_project(tmp_path, "channels_before") as site:
        seen = await chat(ChannelsUser, site, site)
    assert seen == seen_in_chat("Django", echo=True)


async def test_the_chat_of_channels_with_wsrpc(tmp_path: Path) -> None:
    async with django_project(tmp_path, "channels_after", *WSRPC_UVICORN) as site:
        seen = await chat(WsrpcUserOfDjango, site, site)
    assert seen == seen_in_chat("Django", MISSED, echo=True)


# ---------------------------------------------------------------- server-sent events


async def events(
    http: httpx.AsyncClient, url: str, last: str | None, method: str = "GET", **options: Any
) -> AsyncGenerator[tuple[str, str, str]]:
    """The type, the id and the data of each event, as an EventSource reads them; ``last`` is the id it had before."""
    headers = {"Accept": "text/event-stream", **({} if last is None else {"Last-Event-ID": last})}
    async with http.stream(method, url, headers=headers, **options) as response:
        response.raise_for_status()
        kind, data = "message", None
        async for line in response.aiter_lines():
            name, _, value = line.partition(": ")
            match name:
                case "id":
                    last = value
                case "event":
                    kind = value
                case "data":
                    data = value
                case "" if data is not None:
                    assert last is not None
                    yield kind, last, data
                    kind, data = "message", None


def said(data: str) -> str:
    """A text of the lobby: with wsrpc, in an event with a name."""
    value = json.loads(data)
    return str(value if isinstance(value, str) else value["args"][0])


@pytest.mark.parametrize(
    ("name", "say", "room", "answer"),
    [("sse_before", "/say", "/events", "/answers/q1"), ("sse_after", "/call/say", "/rooms/lobby", "/runs/answer/q1")],
)
async def test_server_sent_events(name: str, say: str, room: str, answer: str) -> None:
    command = ("-m", "uvicorn", f"{name}:app", "--port", "0")
    async with program(UVICORN, *command) as site, httpx.AsyncClient(base_url=site, timeout=60) as http:
        reader = events(http, room, None)
        first = asyncio.ensure_future(anext(reader))
        while not first.done():  # it hears what is said after it has arrived
            assert (await http.post(say, json="hello")).json() == 5
            await asyncio.wait([first], timeout=0.05)
        _, last, data = await first
        assert said(data) == "hello"
        await reader.aclose()
        for text in ("one", "two"):
            await http.post(say, json=text)
        if name == "sse_after":  # which also serves clients of wsrpc
            async with Client(f"{site.replace('http', 'ws', 1)}/ws") as client:
                assert await client.request("say", "three", returns=int) == 5
        missed = []
        async with aclosing(events(http, room, last)) as reader:
            async for _, _, data in reader:
                missed.append(said(data))
                if missed[-1] == "two":
                    break
        assert [text for text in missed if text != "hello"] == ["one", "two"]

        async with aclosing(events(http, answer, None, "POST", json="friend")) as words:
            kind, last, data = await anext(words)
            assert (kind, json.loads(data)) == ("message", "It")
        async with aclosing(events(http, answer, last)) as words:
            rest = [(kind, data) async for kind, _, data in words]
        assert rest == [("message", '"depends,"'), ("message", '"friend"'), ("end", "[DONE]")]


# ---------------------------------------------------------------- JSON-RPC


class Rejected(Exception):
    """A response with an error."""


class JsonRpcClient:
    """What users of JSON-RPC over WebSocket write, or their library."""

    def __init__(self, websocket: ClientConnection) -> None:
        self.sold: asyncio.Queue[list[object]] = asyncio.Queue()
        self._websocket, self._ids = websocket, count(1)
        self._responses: dict[int, asyncio.Future[Any]] = {}
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for text in self._websocket:
            values = json.loads(text)
            for value in values if isinstance(values, list) else [values]:
                match value:
                    case {"method": "sold", "params": params}:
                        self.sold.put_nowait(params)
                    case {"method": "confirm", "id": number, "params": [question]}:
                        result = {"jsonrpc": "2.0", "id": number, "result": question == "6 apples?"}
                        await self._websocket.send(json.dumps(result))
                    case {"id": number, "result": result}:
                        self._responses[number].set_result(result)
                    case {"id": number, "error": error}:
                        self._responses[number].set_exception(Rejected(error["code"], error.get("data")))

    async def calls(self, *calls: tuple[object, ...]) -> list[object]:
        batch, numbers = [], []
        for method, *params in calls:
            numbers.append(number := next(self._ids))
            batch.append({"jsonrpc": "2.0", "id": number, "method": method, "params": params})
            self._responses[number] = asyncio.get_running_loop().create_future()
        await self._websocket.send(json.dumps(batch if len(batch) > 1 else batch[0]))
        return [await self._responses[number] for number in numbers]

    async def notify(self, method: str, *params: object) -> None:
        await self._websocket.send(json.dumps({"jsonrpc": "2.0", "method": method, "params": params}))


class WsrpcCaller:
    def __init__(self, client: Client) -> None:
        self.sold: asyncio.Queue[list[object]] = asyncio.Queue()
        self._client = client
        client.on("sold", lambda what, count: self.sold.put_nowait([what, count]))
        client.on("confirm", lambda question: question == "6 apples?")

    async def calls(self, *calls: tuple[object, ...]) -> list[object]:
        try:
            return [*await asyncio.gather(*(self._client.request(str(event), *args) for event, *args in calls))]
        except RemoteError as error:
            data = None if str(error.code).startswith("wsrpc.") else error.data
            raise Rejected(error.code, data) from None

    async def notify(self, event: str, *args: object) -> None:
        await self._client.emit(event, *args)


async def use_jsonrpc(caller: JsonRpcClient | WsrpcCaller) -> dict[str, object]:
    async def error(*call: object) -> tuple[object, ...]:
        with pytest.raises(Rejected) as rejected:
            await caller.calls(call)
        return rejected.value.args

    seen = {
        "a result": await caller.calls(("add", 2, 3)),
        "two calls at once": await caller.calls(("add", 2, 3), ("add", 4, 5)),
        "an error of the method": await error("buy", "apples", 10),
        "an unknown method": (await error("subtract", 2, 3))[0],
        "a parameter is missing": (await error("add", 2))[0],
        "a call back, not confirmed": await error("buy", "apples", 7),
        "a call back, confirmed": await caller.calls(("buy", "apples", 6)),
    }
    await caller.notify("buy", "apples", 1)
    seen["notifications"] = [await caller.sold.get(), await caller.sold.get()]
    return seen


def seen_of_jsonrpc(unknown: object, arguments: object) -> dict[str, object]:
    return {
        "a result": [5],
        "two calls at once": [5, 9],
        "an error of the method": (1001, {"left": 9}),
        "an unknown method": unknown,
        "a parameter is missing": arguments,
        "a call back, not confirmed": (1002, None),
        "a call back, confirmed": [3],
        "notifications": [["apples", 6], ["apples", 1]],
    }


async def test_jsonrpc_over_websocket() -> None:
    async with program(r"listening on (\S+)", "jsonrpc_before.py", "0", stderr=STDOUT) as url:
        async with open_websocket(url) as websocket:
            assert await use_jsonrpc(JsonRpcClient(websocket)) == seen_of_jsonrpc(-32601, -32602)


async def test_the_methods_of_jsonrpc_with_wsrpc() -> None:
    async with program(WSRPC, "jsonrpc_after.py", "0") as url, Client(url) as client:
        expected = seen_of_jsonrpc("wsrpc.unknown_event", "wsrpc.bad_arguments")
        assert await use_jsonrpc(WsrpcCaller(client)) == expected
