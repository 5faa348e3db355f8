"""Values between a page's client and a server, in JSON and MessagePack, in both directions."""

from __future__ import annotations

import base64
import itertools
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
from leftovers import nothing_left as nothing_left

from interop.page_client import Page, Stage, scripted
from wsrpc import RemoteError, Server

pytestmark = pytest.mark.usefixtures("nothing_left")

LOST = "refused"
MOST_MEMORY = "return process.resourceUsage().maxRSS"  # KiB


def twice(value: Any) -> tuple[Any, Any]:
    """The same in both formats."""
    return value, value


# An expression of the page, and what the server gets in JSON and in MessagePack. It is the same if there is one value.
SENT: list[tuple[str, Any, Any]] = [
    ("null", None, None),
    ("undefined", None, None),
    ("[undefined, null]", [None, None], [None, None]),
    ("{ a: undefined, b: null }", {"b": None}, {"b": None}),
    ("[true, false]", [True, False], [True, False]),
    ("[0, -1, 31, -32, -33, 127, 128]", *twice([0, -1, 31, -32, -33, 127, 128])),
    ("[255, 256, 65535, 65536]", *twice([255, 256, 65535, 65536])),
    ("[2 ** 31 - 1, 2 ** 31, -(2 ** 31), -(2 ** 31) - 1]", *twice([2**31 - 1, 2**31, -(2**31), -(2**31) - 1])),
    ("[2 ** 53 - 1, -(2 ** 53) + 1]", *twice([2**53 - 1, -(2**53) + 1])),
    ("[0.5, 1e300, -1.5e-7]", *twice([0.5, 1e300, -1.5e-7])),
    ("[NaN, Infinity]", *twice([None, None])),
    # JSON has as many digits as it takes to tell numbers apart.
    ("[2 ** 53, 2 ** 60, -(2 ** 63)]", [2**53, 1152921504606847000, -9223372036854776000], [2**53, 2**60, -(2**63)]),
    ("2 ** 64", 18446744073709552000, 2.0**64),
    ("1n", LOST, LOST),
    ("''", "", ""),
    ("'x'.repeat(31)", "x" * 31, "x" * 31),
    ("'x'.repeat(32)", "x" * 32, "x" * 32),
    ("'x'.repeat(300)", "x" * 300, "x" * 300),
    ("'x'.repeat(70_000)", "x" * 70_000, "x" * 70_000),
    ("'é€😀\\u0000'", "é€😀\0", "é€😀\0"),
    ("'\\uFEFFx'", "\ufeffx", "\ufeffx"),
    ("{ toJSON: () => (client.emit('event', 'another'), ['x']) }", ["x"], ["x"]),
    ("Array.from({ length: 20 }, (_, k) => k)", list(range(20)), list(range(20))),
    ("Array.from({ length: 70_000 }, () => 1)", [1] * 70_000, [1] * 70_000),
    ("Object.fromEntries(Array.from({ length: 20 }, (_, k) => ['k' + k, k]))", *twice({f"k{k}": k for k in range(20)})),
    ("{ '': [{ a: [{}] }] }", *twice({"": [{"a": [{}]}]})),
    ("JSON.parse('{\"__proto__\":1}')", {"__proto__": 1}, {"__proto__": 1}),
    ("new Date(0)", "1970-01-01T00:00:00.000Z", "1970-01-01T00:00:00.000Z"),
    ("new Uint8Array([0, 255])", LOST, b"\0\xff"),
    ("new Uint8Array([1, 2, 3, 4]).subarray(1, 3)", LOST, b"\2\3"),
    ("new Uint8Array([1, 2]).buffer", LOST, b"\1\2"),
    ("new Uint16Array([1])", LOST, b"\1\0"),
    ("[{ deep: new Uint8Array(300) }]", LOST, [{"deep": bytes(300)}]),
    ("new Uint8Array(70_000)", LOST, bytes(70_000)),
    ("new TextEncoder().encode('é')", LOST, "é".encode()),
    ("() => {}", LOST, LOST),
]  # fmt: skip
UNLIKE = {
    *("undefined", "[undefined, null]", "[NaN, Infinity]", "new Date(0)", "{ a: undefined, b: null }"),
    "{ toJSON: () => (client.emit('event', 'another'), ['x']) }",
}
"""What comes back as something else than what was sent: as JSON has it, and bytes as a `Uint8Array`."""


@pytest.mark.parametrize("codec", ["json", "msgpack"])
async def test_what_a_page_sends(codec: str) -> None:
    stage = Stage(Server())
    seen: list[Any] = []

    def show(value: Any) -> Any:
        seen.append(value)
        return value

    stage.server.on("show", show)
    async with stage.server.listen() as listener, Page.start(listener.url, codec=codec) as page:
        assert await page.do("ask", name="sync") == "synced"
        wrong: list[tuple[str, Any, Any]] = []
        for expression, in_json, in_msgpack in SENT:
            seen.clear()
            told = await page.run(f"""
            const sent = ({expression})
            const {{ isDeepStrictEqual }} = await import("node:util")
            const bytes = (value) => ArrayBuffer.isView(value)
              ? new Uint8Array(value.buffer, value.byteOffset, value.byteLength)
              : value instanceof ArrayBuffer ? new Uint8Array(value) : value
            return await client.request("show", sent).then(
              (back) => isDeepStrictEqual(bytes(back), bytes(sent)) ? "the same" : "another",
              shown,
            )
            """)
            expected = in_json if codec == "json" else in_msgpack
            if expected is LOST and expression != "() => {}":
                if seen or told["error"]["name"] != "TypeError":
                    wrong.append((expression, seen, told))
            elif expression == "() => {}":
                # JSON leaves a function out, as JavaScript programs are used to.
                if codec == "msgpack" and told["error"]["name"] != "TypeError":
                    wrong.append((expression, seen, told))
            elif seen != [expected] or told != ("another" if expression in UNLIKE else "the same"):
                wrong.append((expression, str(seen)[:100], told))
        assert wrong == []


@pytest.mark.parametrize("codec", ["json", "msgpack"])
async def test_what_a_server_sends(codec: str) -> None:
    values: list[Any] = [
        *(None, True, 0, -1, 127, 128, 255, 256, 65535, 65536, -128, -129, -32768, -32769, 2**31, -(2**31), 2**32),
        *(2**53 - 1, 0.5, 1e300, "", "é€😀\0", "x" * 31, "x" * 32, "x" * 256, "x" * 65536),
        "\ufeffx",
        *([], [1] * 15, [1] * 16, [1] * 65536, {}, {"a": {"": []}}, {f"k{k}": k for k in range(70_000)}),
        {"__proto__": {"polluted": 1}},
    ]
    if codec == "msgpack":
        values += [b"", b"\0\xff", bytes(256), bytes(65536), {"deep": [b"x"]}, 2**63, -(2**63), 2**53]
    stage = Stage(Server())
    async with stage.server.listen() as listener, Page.start(listener.url, codec=codec) as page:
        assert await page.do("ask", name="sync") == "synced"
        for value in values:
            assert await stage.peer.request("values", value) == value
        when = datetime(2024, 2, 29, tzinfo=UTC)
        assert await stage.peer.request("values", when, returns=datetime) == when
        assert await page.run("return String({}.polluted)") == "undefined"


@pytest.mark.parametrize("codec", ["json", "msgpack"])
async def test_large_integers_are_numbers(codec: str) -> None:
    """In MessagePack they were of the type bigint, which neither a sum nor JSON takes, and which no declaration has."""
    stage = Stage(Server())
    async with stage.server.listen() as listener, Page.start(listener.url, codec=codec) as page:
        assert await page.do("ask", name="sync") == "synced"
        await page.run("client.on('sum', (number) => [typeof number, String(number), number + 1 - number])")
        for number in (2**53 + 1, 2**60 + 1, 2**64 - 1, -(2**63)):
            kind, text, _ = await stage.peer.request("sum", number)
            assert (kind, float(text)) == ("number", float(number))


async def test_bytes_that_are_sent_before_the_welcome() -> None:
    """They were refused, although the server can have them: the first call of a page failed each time."""
    stage = Stage(Server())

    def size(data: bytes) -> int:
        return len(data)

    stage.server.on("size", size)
    async with stage.server.listen() as listener, Page.start(listener.url, codec="msgpack") as page:
        sizes = await page.run("""
        const first = client.request("size", new Uint8Array(1000).fill(255))
        const buffer = client.request("size", Buffer.from("abc"))
        await first
        return [await first, await buffer, await client.request("size", Buffer.from("abcd"))]
        """)
        assert sizes == [1000, 3, 4]


async def test_bytes_for_a_server_without_messagepack_are_base64() -> None:
    got: list[Any] = []

    async def answer(line: Any, message: Any) -> None:
        got.append(message["a"][1])
        await line.send(f'{{"i":{message["i"]}}}')

    async with scripted(answer) as url, Page.start(url, codec="msgpack") as page:
        assert await page.run("return await client.request('x', new Uint8Array([0, 255, 1])) ?? null") is None
    assert got == [base64.b64encode(b"\0\xff\1").decode()]


async def test_bytes_in_json_are_refused() -> None:
    stage = Stage(Server())
    async with stage.server.listen() as listener, Page.start(listener.url) as page:
        for expression in ("new Uint8Array(1)", "[{ a: new ArrayBuffer(1) }]", "Buffer.from('a')"):
            told = await page.run(f"return await client.request('sync', {expression}).catch(shown)")
            assert "msgpack" in told["error"]["message"]
            # A handler of the page cannot return them, either, and the server is told.
            assert await page.run(f"client.on('give', () => ({expression}))") is None
            with pytest.raises(RemoteError, match="msgpack"):
                await stage.peer.request("give")


@pytest.mark.parametrize("codec", ["json", "msgpack"])
async def test_streams_and_uploads_of_bytes_and_large_items(codec: str) -> None:
    """Sizes around the window: 256 KiB."""
    sizes = [0, 1, 1000, 65_536, 262_143, 262_145, 700_000]
    stage = Stage(Server())

    async def measure(items: AsyncIterator[Any]) -> list[int]:
        return [len(item) async for item in items]

    async def make() -> AsyncIterator[Any]:
        for size in sizes:
            yield bytes(size) if codec == "msgpack" else "x" * size

    stage.server.on("measure", measure)
    stage.server.on("make", make)
    async with stage.server.listen() as listener, Page.start(listener.url, codec=codec) as page:
        assert await page.do("ask", name="sync") == "synced"
        item = "new Uint8Array(size)" if codec == "msgpack" else "'x'.repeat(size)"
        told = await page.run(f"""
        const progress = []
        const caller = client.with({{ progress: ({{ items, bytes }}) => progress.push([items, bytes]) }})
        const up = await caller.upload("measure", {sizes}.map((size) => {item}))
        const down = []
        for await (const item of client.stream("make")) down.push(item.length)
        return {{ up, down, progress }}
        """)
        assert told["up"] == told["down"] == sizes
        if codec == "msgpack":
            # In Safari, the streams of files cannot be iterated over.
            file = "delete ReadableStream.prototype[Symbol.asyncIterator]; const file = new Blob(['x'.repeat(200_000)])"
            pieces = await page.run(f"{file}; return await client.upload('measure', file)")
            assert pieces == [65_536, 65_536, 65_536, 3_392]
        assert [items for items, _ in told["progress"]] == list(range(1, len(sizes) + 1))
        sent = [bytes for _, bytes in told["progress"]]
        if codec == "msgpack":
            assert sent == list(itertools.accumulate(sizes))
        else:
            assert sum(sizes) < sent[-1] < sum(sizes) + 100 * len(sizes)


def claiming(code: bytes, size: int, key: bytes = b"") -> bytes:
    """Return a megabyte of lists or maps in each other, each of which claims to contain as much as it could alone."""
    count = min(1_000_000 // (1 + len(key)) - 3000, (1 << 8 * size) - 1)
    head = bytes.fromhex(HEAD) + (code + count.to_bytes(size, "big") + key) * 500
    return head + bytes(1_000_000 - len(head))


HEAD = "82a16901a164"
"""The begin of an answer, whose value follows."""
CODES = {"list of 4 billion": "ddffffffff", "map of 4 billion": "dfffffffff", "bytes of 4 GB": "c6ffffffff", "cut": ""}
CODES |= {"string of 4 GB": "dbffffffff", "not UTF-8": "a1ff", "extension": "d6ff00000000", "too long": "c0c0"}
OTHERS = {"reserved": "c1", "list": "93010203", "no message": "81a0c0", "odd key": "8180c0", "empty": ""}
MALFORMED = {name: bytes.fromhex(code) for name, code in OTHERS.items()} | {
    **{name: bytes.fromhex(HEAD + code) for name, code in CODES.items()},
    "nested": bytes.fromhex(HEAD) + b"\x91" * 10_000 + b"\xc0",
    "lists that claim too much": claiming(b"\xdd", 4),
    "maps that claim too much": claiming(b"\xdf", 4, b"\0"),
    "short lists that claim too much": claiming(b"\xdc", 2),
}


async def test_malformed_messagepack() -> None:
    """It is counted, and the connection and its calls go on."""

    async def answer(line: Any, message: Any) -> None:
        await line.send(MALFORMED[message["a"][0]])
        await line.send(f'{{"i":{message["i"]},"d":"still here"}}')

    async with scripted(answer) as url, Page.start(url, codec="msgpack") as page:
        # Not 0 at first: where Linux forks, the most memory of the parent is that of the child, too.
        before = await page.run(MOST_MEMORY)
        for count, name in enumerate(MALFORMED, 1):
            assert (name, await page.do("ask", name=name)) == (name, "still here")
            assert (name, await page.do("ignored")) == (name, {"foreign": count})
            # Nor does it take memory: a megabyte in which each of 500 lists claims all that follows took 4 GB.
            assert await page.run(MOST_MEMORY) < before + 200_000
