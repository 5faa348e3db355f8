"""`wsrpc types --asyncapi` and `--openapi`: official validators read the documents, and real messages fit them."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from textwrap import dedent
from typing import Any

import documented
import httpx
import pytest
from asgi_servers import uvicorn_serving
from command_process import prints, run
from jsonschema import Draft7Validator, Draft202012Validator
from openapi_spec_validator import validate
from programs import PYTHON, ROOT, start

from interop.node import JS, OPENAPI, find_node
from wsrpc import Client, RemoteError, RequestTimeout, RpcError, Server
from wsrpc._http_server import answers
from wsrpc._schema.openapi import FAILURES
from wsrpc.codecs import JsonCodec
from wsrpc.testing import connect

FOLDER = Path(__file__).parent


async def output_of(*command: str, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    process = await start(*command, cwd=cwd, env=env)
    out, err = await process.communicate()
    assert process.returncode == 0, (out + err).decode()
    return out.decode()


def _refers(name: str) -> dict[str, str]:
    return {"$ref": f"#/$defs/{name}"}


NAMES = ("Größe", "Gr__e", "WsrpcError", "a b")
ODD = {
    "events": [
        {
            "event": event,
            "kind": "value",
            "channel": channel,
            "deprecated": "use 'b'",
            "result": _refers("keywords"),
            "parameters": parameters,
        }
        for channel in (None, "main", "a b", "a/b", "ä.ö")
        for event in ("error", "a b", "a/b", "a_b", "a_b.result", "a~1b", "{x}", "#", "")
        if (channel, event) not in ((None, "error"), (channel, ""))
        for parameters in [[{"name": name, "schema": _refers(name)} for name in NAMES]]
    ],
    "emits": [],
    "$defs": {
        **{name: {"type": "object", "properties": {"next": {**_refers(name), "default": {}}}} for name in NAMES},
        "keywords": {
            "type": "object",
            "properties": {"prefixItems": {"type": "array"}, "discriminator": {"type": "string"}, "items": {}},
        },
    },
}
"""A description with names and properties that mean something else in a document."""


async def documents_of_examples(folder: Path, kind: str) -> list[Path]:
    await output_of(*PYTHON, str(ROOT / "tests" / "command" / "example_documents.py"), str(folder))
    written = sorted(folder.glob(f"*.{kind}"))
    assert len(written) > 15
    return written


async def test_validators_of_openapi_have_nothing_to_say_of_the_examples(tmp_path: Path) -> None:
    written = [*await documents_of_examples(tmp_path, "openapi"), tmp_path / "documented.json"]
    await run("types", "documented:api", "--openapi", "--app-dir", str(FOLDER), "-o", str(written[-1]))
    for file in written:
        validate(json.loads(file.read_text("utf-8")))
    said = json.loads(await output_of(find_node(), str(OPENAPI / "lint.mjs"), *map(str, written)))
    assert said == {str(file): [] for file in written}


async def test_the_official_validator_of_asyncapi_has_nothing_to_say_of_the_examples(tmp_path: Path) -> None:
    written = await documents_of_examples(tmp_path, "asyncapi")
    (tmp_path / "odd.json").write_text(json.dumps(ODD), "utf-8")
    await prints("types", "odd.json", "--asyncapi", "-o", "odd.asyncapi", cwd=tmp_path)
    files = [str(file) for file in (*written, tmp_path / "odd.asyncapi")]
    said = json.loads(await output_of(find_node(), str(JS / "asyncapi.mjs"), *files))
    # There is a newer version of AsyncAPI 3, which not all tools read.
    others = {file: [each for each in said[file] if each[0] != "asyncapi-latest-version"] for file in files}
    assert {file: each for file, each in others.items() if each} == {}


# ---------------------------------------------------------------- a client that a generator makes, and HTTP

USES_CLIENT = """
    import sys
    import httpx
    from made.api.calls import call_brew, call_nothing, call_price, call_refuse
    from made.api.runs import read_count, start_count, start_price, stop_count
    from made.client import AuthenticatedClient, Client
    from made.models import BrewArguments, CountArguments, Cup, CupInput, PriceArguments, RefuseArguments

    client = Client(sys.argv[1])
    answered = call_brew.sync_detailed(client=client, body=BrewArguments(CupInput("tea"), names=["Ada", "Bob"]))
    assert answered.status_code == 200 and answered.parsed == [Cup("tea", 200), Cup("tea", 200)], answered
    assert call_price.sync(client=client, body=PriceArguments("tea", currency="USD")) == 6
    assert call_nothing.sync_detailed(client=client).status_code == 200
    failed = call_refuse.sync_detailed(client=client, body=RefuseArguments(5))
    assert failed.status_code == 403 and failed.parsed.error.message == "too much"
    assert failed.parsed.error.code == "forbidden" and failed.parsed.error.data == {"most": 4}
    stranger = AuthenticatedClient(sys.argv[1], token="wrong")
    refused = call_refuse.sync_detailed(client=stranger, body=RefuseArguments(5))
    assert (refused.status_code, refused.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert (refused.parsed.error.code, refused.parsed.error.message) == ("unauthorized", "who are you?")
    started = start_count.sync(client=client, key="a/b c", body=CountArguments(stop=3), wait=60)
    assert (started.state, started.items) == ("ended", [0, 1, 2]), started
    again = read_count.sync(client=client, key="a/b c", after="1", wait=60)
    assert (again.state, again.items, again.position) == ("ended", [1, 2], started.position), again
    assert start_price.sync(client=client, key="p", body=PriceArguments("tea")).items == [3]
    assert stop_count.sync_detailed(client=client, key="none").status_code == 404
"""


async def test_a_client_made_by_a_public_generator_calls_the_server(tmp_path: Path) -> None:
    async with http_api() as url:
        ended = await run("types", "documented:api", "--openapi", "--url", url, "--app-dir", str(FOLDER))
        assert ended.err.splitlines() == [
            "wsrpc: nobody: not in the document, because no handler of this name is described",
            "wsrpc: total: not in the document, because this URL is not for handlers of the kind 'upload'",
        ]
        (tmp_path / "openapi.json").write_text(ended.out, "utf-8")
        (tmp_path / "config.yaml").write_text("post_hooks: []", "utf-8")
        words = ("--path", "openapi.json", "--output-path", "made", "--meta", "none", "--config", "config.yaml")
        made = await output_of(PYTHON[0], "-m", "openapi_python_client", "generate", *words, cwd=tmp_path)
        assert "WARNING" not in made, made
        await output_of(*PYTHON, "-c", dedent(USES_CLIENT), url, cwd=tmp_path)


USES_TYPES = """
import type { paths } from "./made"

type Call<Path extends keyof paths> = paths[Path]["post"]
type Body<Path extends keyof paths> =
  Call<Path> extends { requestBody: { content: { "application/json": infer Sent } } } ? Sent : never
const price: Body<"/call/price"> = { drink: "tea", currency: "USD" }
const brew: Body<"/call/brew"> = { cup: { drink: "tea" }, names: ["Ada"] }
const count: Body<"/runs/count/{key}"> = { stop: 3 }
// @ts-expect-error: a name that the handler does not have
const unknown: Body<"/call/price"> = { drink: "tea", curency: "USD" }
// @ts-expect-error: a name that is missing
const missing: Body<"/call/price"> = { currency: "USD" }
declare const failed: paths["/call/price"]["post"]["responses"][401]["content"]["application/json"]
const why: string = failed.error.message
export { price, brew, count, unknown, missing, why }
"""


async def test_openapi_typescript_makes_types_that_know_names_and_errors(tmp_path: Path) -> None:
    await run("types", "documented:api", "--openapi", "--app-dir", str(FOLDER), "-o", str(tmp_path / "openapi.json"))
    (tmp_path / "use.ts").write_text(USES_TYPES, "utf-8")
    tools = OPENAPI / "node_modules"
    generator = str(tools / "openapi-typescript" / "bin" / "cli.js")
    await output_of(find_node(), generator, "openapi.json", "-o", "made.ts", cwd=tmp_path)
    compiler = str(tools / "typescript" / "bin" / "tsc")
    await output_of(find_node(), compiler, "--strict", "--noEmit", "--skipLibCheck", "false", "use.ts", cwd=tmp_path)


@asynccontextmanager
async def http_api() -> AsyncGenerator[str]:
    """Serve the application of `documented`."""
    async with uvicorn_serving(documented.api) as port:
        yield f"http://127.0.0.1:{port}"


REQUESTS: list[tuple[str, str, Any, dict[str, str], int]] = [
    ("post", "/call/brew", {"cup": {"drink": "tea"}, "names": ["Ada"]}, {"Wsrpc-Timeout": "9"}, 200),
    ("post", "/call/brew", {"cup": {"drink": 1}}, {}, 400),
    ("post", "/call/adopt", {"pet": {"type": "Cat", "lives": 9}}, {}, 200),
    ("post", "/call/pair", {"at": [2, "b"]}, {}, 200),
    ("post", "/call/nothing", None, {}, 200),
    ("post", "/call/refuse", {"amount": 5}, {}, 403),
    ("post", "/call/price", {"drink": "tea"}, {"Authorization": "Bearer wrong"}, 401),
    ("post", "/call/price", {"drink": "tea"}, {"Content-Type": "text/plain"}, 415),
    ("post", "/call/price", {"drink": "tea" * 100_000}, {}, 413),
    ("post", "/call/hang", None, {"Wsrpc-Timeout": "0"}, 504),
    ("post", "/call/price", {"drink": "tea"}, {"Idempotency-Key": "k"}, 200),
    ("post", "/call/price", {"drink": "water"}, {"Idempotency-Key": "k"}, 422),
    ("post", "/runs/count/r1?wait=60", {"stop": 3}, {}, 200),
    ("get", "/runs/count/r1", None, {}, 200),
    ("get", "/runs/count/r1?after=1&wait=60", None, {}, 200),
    ("get", "/runs/count/r1?after=end", None, {}, 204),
    ("get", "/runs/count/none?wait=0", None, {}, 404),
    ("delete", "/runs/count/r1", None, {}, 204),
    ("post", "/runs/price/r2", {"drink": "tea"}, {}, 200),
    ("post", "/runs/hang/r3?wait=0", None, {}, 202),
    ("delete", "/runs/hang/r3", None, {}, 204),
    ("post", "/call/rooms:leave", {"room": "lobby"}, {}, 200),
    ("get", "/rooms/lobby?last=9", None, {"Accept": "application/json"}, 200),
]


async def test_each_body_fits_the_document() -> None:
    words = ("types", "documented:api", "--openapi", "--app-dir", str(FOLDER))
    document = json.loads((await run(*words)).out)
    async with http_api() as url, httpx.AsyncClient(base_url=url) as client:
        for method, target, arguments, headers, status in REQUESTS:
            path = re.sub(r"(/rooms/|/runs/\w+/).*", lambda found: found[1] + PLACES[found[1][:5]], target)
            operation = document["paths"][path][method]
            found = await client.request(method, target, json=arguments, headers=headers)
            assert found.status_code == status, (target, found.text)
            assert ("requestBody" in operation) == (arguments is not None)
            may_have_key = {"$ref": "#/components/parameters/once"} in operation["parameters"]
            assert may_have_key == (path in ("/call/price", "/call/hang"))
            if arguments is not None and status != 400:
                check(document, operation["requestBody"], "application/json", arguments)
            response = operation["responses"][str(status)]
            if "$ref" in response:
                response = document["components"]["responses"][str(status)]
            if status == 204:
                assert "content" not in response and found.content == b""
                continue
            kind = found.headers["content-type"].partition(";")[0]
            check(document, response, kind, found.json() if kind == "application/json" else found.text)


def test_each_status_of_an_error_is_in_the_document() -> None:
    tables = (answers.STATUS_OF_CODE, answers.STATUS_OF_CLASS, answers.STATUS_OF_CLOSE)
    assert {status for table in tables for status in table.values()} == {405, *map(int, FAILURES)}


PLACES = {"/room": "{room}", "/runs": "{key}"}


def check(document: dict[str, Any], body: dict[str, Any], kind: str, value: Any) -> None:
    """Check a body against the schema of its kind."""
    schema = {**body["content"][kind]["schema"], "components": document["components"]}
    Draft202012Validator(schema).validate(value)


# ---------------------------------------------------------------- AsyncAPI and the messages of a connection


Messages = list[tuple[str, dict[str, Any]]]
"""Messages that the server has to receive, or sends, in order."""


class Recorder(JsonCodec):
    """Codec that records each message that arrives."""

    def __init__(self, direction: str, messages: Messages) -> None:
        super().__init__()
        decode = self.decode

        def decode_recorded(payload: Any) -> Any:
            messages.append((direction, json.loads(bytes(payload))))
            return decode(payload)

        self.decode = decode_recorded


async def play(client: Client) -> None:
    """Make calls of all kinds."""
    client.on("said", lambda who, cup: None)
    assert await client.request("brew", {"drink": "tea"}, "Ada", timeout=9) == [{"drink": "tea", "size": 200}]
    assert await client.request("adopt", {"type": "Cat", "lives": 9}) == {"type": "Cat", "lives": 9}
    assert await client.request("adopt", {"type": "Dog", "name": "Rex"}) is None
    assert await client.request("pair") == [1, "a"]
    await client.emit("nothing")
    assert await client.request("nothing") is None
    assert await client.request("price", "tea") == 3
    for event in "join", "leave":
        await client.of("rooms").request(event, "lobby")
    with pytest.raises(RemoteError, match="too much"):
        await client.request("refuse", 5)
    with pytest.raises(RequestTimeout):
        await client.request("hang", timeout=0.01)
    assert [item async for item in client.stream("count", 9)] == [*range(9)]
    with pytest.raises(RemoteError, match="no more"):
        [item async for item in client.stream("fails")]
    async with client.stream("count", 1000) as numbers:
        assert await anext(numbers) == 0
    assert await client.request("total", send=range(9)) == 36
    assert await client.request("first", send=range(9)) == 0
    assert [item async for item in client.stream("doubled", send=[1, 2])] == [2, 4]
    for event in "talk", "chat":
        async with await client.open_channel(event) as channel:
            channel.on("hi", lambda number: None)
            channel.on("why", lambda: "because")
            await channel.emit("say", "hello")
            await channel.wait_closed()


def payloads(document: dict[str, Any], operation: str, action: str) -> dict[str, Draft7Validator]:
    """Validators of the messages of an operation that the server receives or sends, by their keys."""
    found = document["operations"][operation]
    part = found if found["action"] == action else found.get("reply", {"messages": []})
    validators = {}
    for ref in part["messages"]:
        path, key = ref["$ref"].removeprefix("#/").split("/")[:-1], ref["$ref"].rpartition("/")[2]
        message = document
        for step in (*path, key):
            message = message[step]
        if "$ref" in message:
            message = document["components"]["messages"][key]
        validators[key] = Draft7Validator({**message["payload"], "components": document["components"]})
    return validators


class Conversation:
    """Finds the message of the document that a recorded message is, by the operation that it belongs to."""

    def __init__(self, document: dict[str, Any]) -> None:
        self._document = document
        self._requests: dict[tuple[str, int], str] = {}
        """The operation of each request, by its direction and its id."""
        self._channels: dict[int, str] = {}

    def key_of(self, direction: str, message: dict[str, Any]) -> str:
        operation = self._operation(direction, message)
        validators = payloads(self._document, operation, direction)
        fitting = [key for key, validator in validators.items() if validator.is_valid(message)]
        assert len(fitting) == 1, (direction, operation, message, fitting, [*validators])
        return fitting[0]

    def _operation(self, direction: str, message: dict[str, Any]) -> str:
        other = {"send": "receive", "receive": "send"}[direction]
        if "a" not in message:
            if "h" in message and "i" not in message:
                return self._channels[message["h"]]
            operation = self._requests[direction if "x" in message else other, message["i"]]
            if "h" in message:
                self._channels[message["h"] if message["h"] != 1 else message["i"]] = operation
            return operation
        if "h" in message:
            operation = self._channels[message["h"]]
        else:
            operation = ".".join(filter(None, (direction, message.get("c"), message["a"][0])))
        if "i" in message:
            self._requests[direction, message["i"]] = operation
        return operation


async def test_each_message_on_the_wire_is_one_of_the_document() -> None:
    document = json.loads(await prints("types", "documented:server", "--asyncapi", "--app-dir", str(FOLDER)))
    seen: set[str] = set()
    for is_plain in (False, True):
        messages: Messages = []
        server = Server(codec=Recorder("receive", messages))
        documented.fill(server)
        async with connect(server, client=Client(codec=Recorder("send", messages), extensions=not is_plain)) as client:
            await play(client)
            client.on("age", lambda: 7)
            assert await client.of("shop").request("ask") == 7
            client.on("age", refuse)
            with pytest.raises(RemoteError):
                await client.of("shop").request("ask")
            if not is_plain:
                assert [item async for item in client.stream("count", 2, key="k")] == [0, 1]
        conversation = Conversation(document)
        seen |= {conversation.key_of(*each) for each in messages}
    stated = {key for channel in document["channels"].values() for key in channel["messages"]}
    assert stated - seen == {"refuse.result", "hang.result"}


async def test_a_deprecated_event_is_marked() -> None:
    openapi = json.loads((await run("types", "documented:api", "--openapi", "--app-dir", str(FOLDER))).out)
    asyncapi = json.loads(await prints("types", "documented:server", "--asyncapi", "--app-dir", str(FOLDER)))
    validate(openapi)
    marked = [path for path, operations in openapi["paths"].items() if operations.get("post", {}).get("deprecated")]
    assert marked == ["/call/nothing"]
    assert openapi["paths"]["/call/nothing"]["post"]["description"] == "Deprecated: use 'pair'"
    main = asyncapi["channels"]["main"]["messages"]
    assert [key for key, each in main.items() if each.get("payload", {}).get("deprecated")] == ["nothing"]
    assert asyncapi["operations"]["receive.nothing"]["description"] == "Deprecated: use 'pair'"


async def test_a_document_is_the_same_each_time() -> None:
    words = (*PYTHON, "-m", "wsrpc", "types", "documented:server", "--asyncapi")
    first, second = [await output_of(*words, cwd=FOLDER, env={"PYTHONHASHSEED": seed}) for seed in "12"]
    assert first == second


async def test_a_description_may_lack_what_older_servers_did_not_describe(tmp_path: Path) -> None:
    events = [{"event": kind, "kind": kind} for kind in ("value", "stream", "upload", "exchange", "conversation")]
    (tmp_path / "old.json").write_text(json.dumps({"events": events, "$defs": {}}), "utf-8")
    document = json.loads(await prints("types", "old.json", "--asyncapi", cwd=tmp_path))
    assert len(document["operations"]) == len(events)


def refuse() -> None:
    raise RpcError("no")


@pytest.mark.parametrize(
    ("action", "message"),
    [
        ("receive", {"i": 1, "a": ["brew"]}),
        ("receive", {"i": 1, "a": ["brew", {"size": 1}]}),
        ("receive", {"i": 1, "a": ["brew", {"drink": "tea"}, 1]}),
        ("receive", {"i": 0, "a": ["brew", {"drink": "tea"}]}),
        ("receive", {"i": 1, "a": ["beer", {"drink": "tea"}]}),
        ("send", {"i": 1, "d": [{"drink": "tea"}]}),  # without a size, which the server always sends
        ("send", {"i": 1}),
        ("send", {"i": 1, "e": {"code": "x"}, "_": 1}),
        ("send", {"i": 1, "h": 1}),
    ],
)
async def test_another_message_is_none_of_the_document(action: str, message: dict[str, Any]) -> None:
    document = json.loads(await prints("types", "documented:server", "--asyncapi", "--app-dir", str(FOLDER)))
    validators = payloads(document, "receive.brew", action)
    assert validators and not any(validator.is_valid(message) for validator in validators.values())
