"""`wsrpc call`, `stream` and `emit`: what is sent, what is printed, and the exit codes."""

from __future__ import annotations

import asyncio
import json
import shlex
import socket
import ssl
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from command_process import COMMAND, end, environment, prints, refusal, round_trips, run, serving, start
from programs import ROOT
from proxies import Proxy, http
from raw_websocket import CLOSE, raw_server

from wsrpc import Context, Handshake, Peer
from wsrpc.testing import FaultProxy

CERTIFICATES = ROOT / "tests" / "certificates"
DATA = bytes(range(256)) * 1000
FILES = {
    "a.json": '{\n  "ä": 1\n}\n'.encode(),
    "a.txt": b"zwei\nZeilen\n",
    "a.bin": b"\xff\x00\n",
    "data.bin": DATA,
    "odd.txt": b"hello",
    "odd.bin": b"\xff",
    "large.json": json.dumps("x" * 40_000).encode(),
}


def matches(text: str, expected: str) -> bool:
    """Whether it is the expected text, or begins with what comes before "…" and ends with what comes after it."""
    begin, dots, rest = expected.rpartition("…")
    return text.startswith(begin) and text.endswith(rest) if dots else text == expected


PRINTED = {
    "call URL add 2 3": "5\n",
    """call URL say '"hi"' --channel chat""": '"HI"\n',
    """call URL args -2 --timeout 5 '{"a": [1.5, null]}' true""": '[-2,{"a":[1.5,null]},true]\n',
    "call URL --compress echo -1e3": "-1000.0\n",
    "call URL args @a.json @text:a.txt @bytes:a.bin": '[{"ä":1},"zwei\\nZeilen\\n","/wAK"]\n',
    "stream URL countdown 3": "3\n2\n1\n",
    "stream URL ticks 5 --take 2": "0\n1\n",
    "stream URL doubled - < '1\n2\n'": "2\n4\n",
    "call URL total - < '1\n2\n\n 3'": "6\n",
    "call URL total - < ''": "0\n",
    "call URL sent - --as text < 'a\r\n\nä b'": '["a","","ä b"]\n',
    "call URL size - --as bytes < '\x00\x01'": "2\n",
    "call URL size --send data.bin --as bytes": f"{len(DATA)}\n",
    "emit URL add 2 3": "",
}
"""Command lines, with what comes from stdin behind ``<``, and what they print."""

QUOTES = "the shell may have removed quotes, so put the argument into '"
REFUSED: dict[int, dict[str, str]] = {
    1: {
        "call URL fail": 'no money\\n\\x1b[31mleft [broke], with the data {"cents":5}',
        "call URL crash": "internal error […",
        "call URL none": "No event listener for 'none'",
        """call URL add '"a"' 2""": "add(): argument 'a' (1st)…",
        "call URL countdown 3": "the response is a channel, not a value: read it with `wsrpc stream`",
        "stream URL add 2 3": "the response to 'add' is not a channel but int: use `wsrpc call`, without an upload",
    },
    2: {
        # 2: a value that cannot be used
        "call URL echo Ada": """Ada is not JSON: arguments are JSON, so write '"Ada"' for the text""",
        "call URL echo 'a\x1bb'": """a\\x1bb is not JSON: arguments are JSON, so write '"a\\u001bb"' for the text""",
        "call URL echo ''": """an empty argument is not JSON: arguments are JSON, so write '""' for the text""",
        "call URL echo '{a: 1}'": f"{{a: 1}} is not JSON: object keys must be strings (byte 1); {QUOTES}…",
        """call URL echo '["a"'""": f'["a" is not JSON: its end is missing; {QUOTES}…',
        f"call URL echo {'[' * 90_000}": f"{'[' * 60}… (89,940 more characters) is not JSON: it is nested too…",
        "call URL echo '\udcff'": "\\udcff is not JSON: it is not text in UTF-8; give @bytes:FILE for the bytes in …",
        "call URL echo @": """@ names no file: write @FILE, or '"@"' for the text""",
        "call URL echo @none.json": "cannot read none.json: No such file or directory",
        "call URL echo @odd.txt": "odd.txt is not JSON: invalid character (byte 0); give @text:odd.txt for its text, …",
        "call URL echo @/dev/zero": "/dev/zero has more than 67,108,864 bytes: upload it with --send, if its handler "
        "reads items",
        "call URL echo @text:odd.bin": "odd.bin is not text in UTF-8; give @text:odd.bin for its text, or "
        "@bytes:odd.bin for its bytes",
        "call URL total - < '1\nzwei\n3\n'": "line 2 of stdin is not JSON: …",
        "call URL sent - --as text < '\udcff\n'": "line 1 of stdin is not text in UTF-8; give --as …",
        # 2: a command line that cannot work
        "cal": "No such command 'cal'…",
        "call ws://a b --tiemout 3": "No such option…",
        "call ws://a b 2 -a": "No such option…",
        "call ws://a b --timeout nan": "connect_timeout= is a number of seconds, more than 0…",
        "call ws://a b --timeout 0": "Invalid value for '--timeout': 0.0 is not in the range x>0…",
        "call ws://a b --token ''": "the token of --token is empty (see wsrpc call --help)",
        "call ws://a:99999 b": "a URL has a host and a port of at most 65535 after ://…",
        "call http://a b": "a URL begins with ws:// or wss:// and names a host, got 'http://a'…",
        "call ws://a open": "'open' is reserved on the main channel…",
        "call ws://a b - -": "a request has one upload: give - once…",
        "call ws://a b --send /none": "cannot read /none: No such file or directory",
        "call ws://a b --insecure": "--cacert, --cert, --key and --insecure are for wss:// URLs…",
        "call wss://a b --key k": "--key is the key of a certificate: give --cert FILE, too…",
        f"call wss://a b --cacert {CERTIFICATES}/client.key": "cannot read the authorities in …/client.key: no "
        "certificate or crl found",
        f"call wss://a b --cert {CERTIFICATES}/client.pem": "cannot use the certificate in …/client.pem: it does not "
        "hold a certificate and its private key; --key names another file for the key",
        "call ws://a b --header x": "Invalid value for '--header': expected \"NAME: VALUE\", got…",
        "call ws://a b --header 'x: a\nb'": "the header 'x' has a character that…",
    },
    3: {
        "call NOBODY add 2 3": "could not connect: Connection refused",
        "call NOBODY add 2 3 --retry 1": "could not connect in 2 attempts: …",
        "listen NOBODY": "could not connect: …",
        "call SILENT add --timeout 0.2": "could not connect: there was no response in time",
        "call wss://URL add 2 3": "could not connect: the …",
        f"call URL echo {'[' * 600}{']' * 600}": "the message is nested more than 512 levels deep, …",
        "call URL echo @large.json --profile go": "the message has 40032 bytes encoded, and at most 32768 may be sent…",
    },
}
"""By exit code: command lines, and what these say."""


async def ends(line: str, folder: Path) -> tuple[int, str, str]:
    """The exit code of a command line, and what it prints to stdout and stderr."""
    for name, data in FILES.items():
        (folder / name).write_bytes(data)
    words = shlex.split(line)
    given = words.pop().encode("utf-8", "surrogateescape") if "<" in words else None
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        if "SILENT" in words:
            silent.listen()
        nobody = f"ws://127.0.0.1:{silent.getsockname()[1]}"
        async with serving() as played:
            tls = played.url.replace("ws:", "wss:")
            urls = {"URL": played.url, "wss://URL": tls, "NOBODY": nobody, "SILENT": nobody}
            return await run(*(urls.get(word, word) for word in words if word != "<"), given=given, cwd=folder)


@pytest.mark.parametrize("line", PRINTED)
async def test_what_is_printed(line: str, tmp_path: Path) -> None:
    assert await ends(line, tmp_path) == (0, PRINTED[line], "")


@pytest.mark.parametrize(
    ("expected", "line"), [pytest.param(code, line, id=ascii(line[:80])) for code in REFUSED for line in REFUSED[code]]
)
async def test_what_is_refused(expected: int, line: str, tmp_path: Path) -> None:
    code, out, err = await ends(line, tmp_path)
    assert (code, out, err.count("\n")) == (expected, "", 1)
    assert matches(err.removeprefix("wsrpc: ").rstrip("\n"), REFUSED[expected][line]), err


async def test_the_way_to_quote_a_word_works() -> None:
    async with serving() as played:
        for word in ("Ada", "it's", 'a "b" $HOME `ls` \\'):
            said = await refusal(2, "call", played.url, "echo", word)
            quoted = said.removesuffix(" for the text").rpartition("so write ")[2]
            process = await asyncio.create_subprocess_exec("bash", "-c", f"printf %s {quoted}", stdout=PIPE)
            written, _ = await process.communicate()
            assert json.loads(await prints("call", played.url, "echo", written.decode())) == word


async def test_help() -> None:
    shown = await prints("--help")
    for command in ("call", "stream", "emit", "listen", "describe", "types", "client", "completion"):
        assert f"\n  {command} " in shown
        assert (await prints(command, "--help")).startswith(f"Usage: wsrpc {command} [OPTIONS]")


# ---------------------------------------------------------------- the connection


async def test_metadata_is_sent_with_each_kind_of_message() -> None:
    async with serving() as played:

        @played.server.on("about")
        def about(ctx: Context) -> dict[str, str]:
            played.heard.put_nowait([*ctx.metadata])
            return dict(ctx.metadata)

        @played.server.on("flow")
        async def flow(ctx: Context) -> AsyncIterator[str]:
            yield ctx.metadata["tenant"]

        metadata = ("-H", "tenant=a", "--metadata", "trace=b=c")
        assert await prints("call", played.url, "about", *metadata) == '{"tenant":"a","trace":"b=c"}\n'
        assert await prints("stream", played.url, "flow", *metadata) == '"a"\n'
        await prints("emit", played.url, "about", *metadata)
        assert [await played.heard.get() for _ in range(2)] == [["tenant", "trace"]] * 2
        assert "expected NAME=VALUE, got 'a'" in await refusal(2, "call", played.url, "about", "-H", "a")
        assert "metadata= has at most" in await refusal(2, "call", played.url, "about", "-H", "a b=c")


async def test_4_when_the_connection_is_lost_meanwhile() -> None:
    async with serving() as played:
        process = await start("call", played.url, "hang")
        assert await played.started.get() == "hang"
        await (await played.peers.get()).close(1001, "going away")
        said = "wsrpc: the connection ended (1001 going away); requests in flight may have run\n"
        assert await end(process) == (4, "", said)


@pytest.mark.parametrize("ends", ["drops", "answers the Close frame", "is interrupted"])
async def test_4_when_an_event_may_not_have_arrived(ends: str, tmp_path: Path) -> None:
    """The command ended with 0, and said nothing, when a part of the event had left."""
    (tmp_path / "large.txt").write_text("x" * 2_000_000)
    async with raw_server(receive_buffer=10_000) as server:
        process = await start("emit", server.url, "say", "@text:large.txt", cwd=tmp_path)
        raw = await server.accept()
        if ends == "drops":
            await raw.next_frame()  # the hello; the event does not wait long for an answer to it
            await raw.read()
            raw.reset()
            said = "wsrpc: say may not have arrived: the connection dropped before the server had read everything\n"
            assert await end(process) == (4, "", said)
        elif ends == "is interrupted":
            await raw.read()
            process.terminate()
            assert await end(process) == (143, "", "wsrpc: stopped by SIGTERM: say may not have arrived\n")
        else:
            await raw.next_of(CLOSE)
            await raw.send(raw.close_frame())
            raw.drop()
            assert await end(process) == (0, "", "")


async def test_a_late_answer_is_cancelled_on_the_server() -> None:
    async with serving() as played:
        said = await refusal(5, "call", played.url, "hang", "--timeout", "0.5")
        assert said == "no response to 'hang' within 0.5 s"
        assert (await played.ended.get())[0] == "hang"


async def test_a_call_is_repeated_while_nothing_has_run() -> None:
    async with serving() as played:
        statuses = [503, 401, 503]

        @played.server.on_handshake
        def refuse(handshake: Handshake) -> None:
            if statuses:
                handshake.reject(statuses.pop(0), "no")

        refused = f"could not connect: the server at '{played.url}' refused the connection with HTTP"
        assert await refusal(3, "call", played.url, "add", "2", "3") == f"{refused} 503: no"
        said = await refusal(3, "call", played.url, "add", "2", "3", "--retry", "1")
        assert said.startswith(f"{refused} 401: no (a token")
        assert await prints("call", played.url, "add", "2", "3", "--retry", "1") == "5\n"
        statuses.append(404)
        hint = f"a server without a name answered at '{played.url}': are host and path right?"
        assert await refusal(3, "call", played.url, "add", "2", "3") == f"{refused} 404: no; {hint}"


async def test_with_retry_a_call_goes_on_over_another_connection() -> None:
    async with serving() as played, FaultProxy(played.url) as proxy:
        again = asyncio.Event()

        async def slow(peer: Peer) -> str:
            await round_trips(peer)
            played.started.put_nowait("slow")
            await again.wait()
            return "done"

        played.server.on("slow", slow)
        process = await start("call", proxy.url, "slow", "--retry", "100")
        assert await played.started.get() == "slow"
        proxy.drop()
        again.set()
        assert await end(process) == (0, '"done"\n', "")


async def test_headers_the_token_and_subprotocols() -> None:
    async with serving() as played:
        seen: list[tuple[str | None, str | None, list[str]]] = []

        @played.server.on_handshake
        def look(handshake: Handshake) -> None:
            headers = handshake.headers
            seen.append((headers.get("authorization"), headers.get("x-a"), list(handshake.subprotocols)))

        add = ["call", played.url, "add", "2", "3"]
        await prints(*add, env={"WSRPC_TOKEN": "t1"})
        await prints(*add, "--token", "t2", env={"WSRPC_TOKEN": "t1"})
        await run("call", "--token=t3", *add[1:], "--header", "X-A: b:c", "--subprotocol", "v2", "--subprotocol", "v1")
        assert seen == [("Bearer t1", None, []), ("Bearer t2", None, []), ("Bearer t3", "b:c", ["v2", "v1"])]


async def test_nobody_sees_the_token() -> None:
    """Not among the arguments of the process, which here begins as a new Python, nor in the log."""
    async with serving() as played:
        words = [*COMMAND, "call", played.url, "hang", "--token", "geheim-7", "--verbose"]
        process = await asyncio.create_subprocess_exec(*words, stdout=PIPE, stderr=PIPE, env=environment())
        assert await played.started.get() == "hang"
        shown = Path(f"/proc/{process.pid}/cmdline").read_text("utf-8")
        assert played.url in shown and "geheim" not in shown
        process.terminate()
        out, err = await process.communicate()
        assert process.returncode == 143 and b"geheim" not in out + err and b"sent request hang" in err


async def test_a_proxy_of_the_environment_is_named() -> None:
    """The command tried for 30 seconds to connect through a proxy that refuses."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        through = f"dialed through the proxy {url}, which https_proxy names"
        env = {"https_proxy": url, "no_proxy": ""}
        said = await refusal(3, "call", "wss://192.0.2.1", "add", env=env)
        assert said == f"could not connect: Connection refused; {through}"
    async with Proxy(http("Basic other")).running() as proxy:
        url = f"http://127.0.0.1:{proxy.port}"
        said = await refusal(3, "call", "wss://192.0.2.1", "add", "--retry", "9", env={**env, "https_proxy": url})
        refused = "could not connect: the proxy refused to connect: HTTP 407 Who are you?"
        assert said == f"{refused}; dialed through the proxy {url}, which https_proxy names"


async def test_tls() -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(CERTIFICATES / "ca.pem"))
    context.load_cert_chain(CERTIFICATES / "server.pem", CERTIFICATES / "server.key")
    async with serving(ssl=context) as played:
        add = ["call", played.url, "add", "2", "3"]
        said = await refusal(3, *add)
        assert said.startswith("could not connect: the server's certificate is not valid, ") and "--cacert" in said
        assert await prints(*add, "--insecure") == "5\n"
        trusted = [*add, "--cacert", str(CERTIFICATES / "ca.pem")]
        assert await prints(*trusted) == "5\n"
        context.verify_mode = ssl.CERT_REQUIRED
        assert (await run(*trusted)).code == 3
        certificate = ["--cert", str(CERTIFICATES / "client.pem"), "--key", str(CERTIFICATES / "client.key")]
        assert await prints(*trusted, *certificate) == "5\n"


# ---------------------------------------------------------------- when items and events are sent


async def test_a_handler_that_has_enough_ends_the_upload() -> None:
    async with serving() as played:

        async def first(items: AsyncIterator[int]) -> int:
            return await anext(items)

        played.server.on("first", first)
        process = await start("call", played.url, "first", "-", stdin=PIPE)
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(b"7\n8\n")  # and stdin stays open
        assert await process.stdout.readline() == b"7\n"
        assert await process.wait() == 0


async def test_an_event_has_left_when_the_command_ends(tmp_path: Path) -> None:
    (tmp_path / "large.txt").write_text("x" * 3_000_000, "utf-8")
    async with serving() as played:
        assert await prints("emit", played.url, "say", "@text:large.txt", "--channel", "chat", cwd=tmp_path) == ""
        assert await played.heard.get() == ["x" * 3_000_000, False]
