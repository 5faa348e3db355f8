"""`wsrpc call`, `stream`, `upload` and `emit`: what is sent, what is printed, and the exit codes."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest
from command_process import end, prints, refusal, run, serving, start

from programs import ROOT

from wsrpc import Handshake, Limits, Peer, Server
from wsrpc.testing import FaultProxy

CERTIFICATES = ROOT / "tests" / "certificates"


async def test_a_call_prints_its_answer() -> None:
    async with serving() as played:
        assert await prints("call", played.url, "add", "2", "3") == "5\n"
        assert await prints("call", played.url, "say", '"hi"', "--channel", "chat") == '"HI"\n'
        assert await prints("call", played.url, "args", "-2", "--timeout", "5", '{"a": [1.5, null]}', "true") == (
            '[-2,{"a":[1.5,null]},true]\n'
        )
        assert await prints("call", played.url, "--compress", "echo", "-1e3") == "-1000.0\n"
        assert await prints("call", played.url, "args", "--", "-1", "-2") == "[-1,-2]\n"


async def test_arguments_come_from_files(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{\n  "ä": 1\n}\n', "utf-8")
    (tmp_path / "a.txt").write_text("zwei\nZeilen\n", "utf-8")
    (tmp_path / "a.bin").write_bytes(b"\xff\x00\n")
    async with serving() as played:
        found = await prints("call", played.url, "args", "@a.json", "@text:a.txt", "@bytes:a.bin", cwd=tmp_path)
        assert json.loads(found) == [{"ä": 1}, "zwei\nZeilen\n", "/wAK"]


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("Ada", """Ada is not JSON: arguments are JSON, so write '"Ada"' for the text"""),
        ("it's", """it's is not JSON: arguments are JSON, so write '"it'"'"'s"' for the text"""),
        ("a\x1bb", """a\\x1bb is not JSON: arguments are JSON, so write '"a\\u001bb"' for the text"""),
        ("", """an empty argument is not JSON: arguments are JSON, so write '""' for the text"""),
        (
            "{a: 1}",
            "{a: 1} is not JSON: object keys must be strings (byte 1); the shell may have removed quotes, so put the "
            "argument into '…'",
        ),
        ('["a"', '["a" is not JSON: its end is missing; the shell may have removed quotes, so put the argument into'),
        ('"\x1b"', '"\\x1b" is not JSON: invalid character (byte 1); the shell may have removed quotes'),
        ("[" * 10_000, f"{'[' * 60}… (9,940 more characters) is not JSON: it is nested too deeply; the shell"),
        (
            "x" * 61,
            f"{'x' * 60}… (1 more characters) is not JSON: arguments are JSON, so write '\"{'x' * 61}\"' for the text",
        ),
        ("\udcff", "\\udcff is not JSON: it is not text in UTF-8; give @bytes:FILE for the bytes in a file"),
        ("@", """@ names no file: write @FILE, or '"@"' for the text"""),
        ("@bytes:", """@bytes: names no file: write @bytes:FILE, or '"@bytes:"' for the text"""),
        ("@none.json", "cannot read none.json: No such file or directory"),
        ("@odd.txt", "odd.txt is not JSON: invalid character (byte 0); give @text:odd.txt for its text"),
        ("@/dev/null", "/dev/null is not JSON: its end is missing; give @text:/dev/null for its text"),
        ("@/dev/zero", "/dev/zero has more than 67,108,864 bytes: upload it with --send, if its handler reads items"),
        (
            "@text:odd.bin",
            "odd.bin is not text in UTF-8; give @text:odd.bin for its text, or @bytes:odd.bin for its bytes",
        ),
    ],
)
async def test_arguments_that_are_not_json(tmp_path: Path, argument: str, said: str) -> None:
    (tmp_path / "odd.txt").write_text("hello", "utf-8")
    (tmp_path / "odd.bin").write_bytes(b"\xff")
    assert (await refusal(2, "call", "ws://127.0.0.1:1", "echo", argument, cwd=tmp_path)).startswith(said)


async def test_the_way_to_quote_a_word_works() -> None:
    async with serving() as played:
        for word in ("Ada", "it's", 'a "b" $HOME `ls` \\'):
            said = await refusal(2, "call", played.url, "echo", word)
            quoted = said.removesuffix(" for the text").rpartition("so write ")[2]
            process = await asyncio.create_subprocess_exec("bash", "-c", f"printf %s {quoted}", stdout=PIPE)
            written, _ = await process.communicate()
            assert json.loads(await prints("call", played.url, "echo", written.decode())) == word


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Missing command. (see wsrpc --help)"),
        (["cal"], "No such command 'cal'"),
        (["call"], "Missing argument 'URL'. (see wsrpc call --help)"),
        (["call", "ws://a", "b", "--tiemout", "3"], "No such option"),
        (
            ["call", "ws://a", "b", "--timeout", "soon"],
            "Invalid value for '--timeout': expected a number of seconds greater than 0, got 'soon'",
        ),
        (
            ["call", "ws://a", "b", "--timeout", "nan"],
            "Invalid value for '--timeout': expected a number of seconds greater than 0, got 'nan'",
        ),
        (
            ["call", "ws://a", "b", "--timeout", "0"],
            "Invalid value for '--timeout': expected a number of seconds greater than 0",
        ),
        (["stream", "ws://a", "b", "--take", "0"], "Invalid value for '--take': 0 is not in the range x>=1."),
        (["stream", "ws://a", "b", "--retry", "x"], "Invalid value for '--retry': 'x' is not a valid integer range."),
        (["call", "ws://a", "--tiemout", "3"], "No such option"),
        (["call", "ws://a", "b", "2", "-a"], "No such option"),
        (
            ["call", "ws://a", "b", "--token", ""],
            "the token of --token is empty (see wsrpc call --help)",
        ),
        (
            ["call", "ws://a", "b", "--token="],
            "the token of --token is empty (see wsrpc call --help)",
        ),
        (["call", "ws://a:99999", "b"], "a URL has a host and a port of at most 65535 after ://"),
        (["completion"], "Missing argument 'SHELL'."),
        (["call", "http://a", "b"], "a URL begins with ws:// or wss:// and names a host, got 'http://a'"),
        (["call", "ws://a", "open"], "'open' is reserved on the main channel"),
        (["call", "ws://a", "b", "--answer", "x"], """--answer is NAME=VALUE, such as name='"Ada"'; got 'x'"""),
        (["call", "ws://a", "b", "--answer", "=1"], """--answer is NAME=VALUE, such as name='"Ada"'; got '=1'"""),
        (["call", "ws://a", "b", "--answer", "x=y"], "y is not JSON"),
        (["call", "ws://a", "b", "-", "-"], "a request has one upload: give - once"),
        (["call", "ws://a", "b", "-", "--send", "f"], "a request has one upload"),
        (["upload", "ws://a", "b"], "nothing to upload: give - for stdin, or --send FILE"),
        (["upload", "ws://a", "b", "--send", "/none"], "cannot read /none: No such file or directory"),
        (["call", "ws://a", "b", "--insecure"], "--cacert, --cert, --key and --insecure are for wss:// URLs"),
        (["call", "wss://a", "b", "--key", "k"], "--key is the key of a certificate: give --cert FILE, too"),
        (["call", "wss://a", "b", "--cacert", "/none"], "cannot read the authorities in /none: No such file"),
        (["call", "ws://a", "b", "--header", "x"], "Invalid value for '--header': expected \"NAME: VALUE\", got"),
        (["call", "ws://a", "b", "--header", "x: a\nb"], "the header 'x' has a character that"),
    ],
)
async def test_what_cannot_work_is_said_before_anything_is_sent(arguments: list[str], said: str) -> None:
    assert (await refusal(2, *arguments)).startswith(said)


async def test_help() -> None:
    commands = ("call", "stream", "upload", "emit", "listen", "describe", "types", "client", "completion")
    out, version, *texts = await asyncio.gather(
        prints("--help"), prints("--version"), *(prints(command, "--help") for command in commands)
    )
    assert version.startswith("wsrpc ")
    for command, text in zip(commands, texts, strict=True):
        assert f"\n  {command} " in out and text.startswith(f"Usage: wsrpc {command} [OPTIONS]")


async def test_handlers_answer_the_server_meanwhile() -> None:
    async with serving() as played:
        assert await prints("call", played.url, "greet", "--answer", 'name="Ada"') == '"Hello, Ada!"\n'
        said = await refusal(1, "call", played.url, "greet", "--answer", "nam=1")
        assert said.startswith("internal error [")
        assert said.endswith("; the server requested 'name' meanwhile: answer it with --answer NAME=VALUE")

        async def ask(peer: Peer) -> list[Any]:
            return [await peer.of("chat").request("a"), await peer.request("a"), await peer.request("b", 1)]

        played.server.of("chat").on("ask", ask)
        arguments = ["--channel", "chat", "--answer", "a=1", "--answer", "b=[2]"]
        assert await prints("call", played.url, "ask", *arguments) == "[1,1,[2]]\n"

        @played.server.on("odd")
        async def odd(peer: Peer) -> Any:
            return await peer.request("a\x1b[2J")

        said = await refusal(1, "call", played.url, "odd")
        assert said.endswith("; the server requested 'a\\x1b[2J' meanwhile: answer it with --answer NAME=VALUE")


# ---------------------------------------------------------------- exit codes


async def test_1_when_the_server_refuses() -> None:
    async with serving() as played:
        said = await refusal(1, "call", played.url, "fail")
        assert said == 'no money\\n\\x1b[31mleft [broke], with the data {"cents":5}'
        assert (await refusal(1, "call", played.url, "crash")).startswith("internal error [")
        assert await refusal(1, "call", played.url, "none") == "No event listener for 'none'"
        assert (await refusal(1, "call", played.url, "add", '"a"', "2")).startswith("add(): argument 'a' (1st)")
        assert await refusal(1, "call", played.url, "countdown", "3") == (
            "the response is a channel, not a value: read it with `wsrpc stream`"
        )
        no_channel = "the response to 'add' is not a channel but int: use `wsrpc call`, without an upload"
        assert await refusal(1, "stream", played.url, "add", "2", "3") == no_channel
        assert await refusal(1, "upload", played.url, "add", "2", "3", "-", given=b"1\n") == no_channel


async def test_3_when_nothing_was_sent() -> None:
    async with serving() as played:
        url = played.url
    assert await refusal(3, "call", url, "add", "2", "3") == "could not connect: Connection refused"
    said = await refusal(3, "call", url, "add", "2", "3", "--retry", "1")
    assert said.startswith("could not connect in 2 attempts: ")
    async with serving() as played:
        played.server.on_handshake(lambda handshake: handshake.reject(401, "log in"))
        said = await refusal(3, "call", played.url, "add", "2", "3")
        assert said.startswith("could not connect: the server refused the connection with HTTP 401: log in (a token")


async def test_3_when_nobody_answers_the_handshake() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        url = f"ws://127.0.0.1:{listener.getsockname()[1]}"
        said = await refusal(3, "call", url, "add", "--timeout", "0.2")
        assert said == "could not connect: there was no response in time"


async def test_4_when_the_connection_is_lost_meanwhile() -> None:
    async with serving() as played:
        process = await start("call", played.url, "hang")
        assert await played.started.get() == "hang"
        await (await played.peers.get()).close(1001, "going away")
        code, out, err = await end(process)
        assert (code, out) == (4, "")
        assert err == "wsrpc: the connection ended (1001 going away); requests in flight may have run\n"


async def test_5_when_the_answer_is_late() -> None:
    async with serving() as played:
        said = await refusal(5, "call", played.url, "hang", "--timeout", "1.5")
        assert said == "no response to 'hang' within 1.5 s"
        assert (await played.ended.get())[0] == "hang"


async def test_a_call_is_repeated_while_nothing_has_run() -> None:
    async with serving() as played:
        attempts = 0

        @played.server.on_handshake
        def refuse_once(handshake: Handshake) -> None:
            nonlocal attempts
            attempts += 1
            if attempts == 1:
                handshake.reject(503, "busy")

        assert (await refusal(3, "call", played.url, "add", "2", "3")).endswith("HTTP 503: busy")
        attempts = 0
        assert await prints("call", played.url, "add", "2", "3", "--retry", "1") == "5\n"


async def test_with_retry_a_call_goes_on_over_another_connection() -> None:
    async with serving() as played, FaultProxy(played.url) as proxy:
        again = asyncio.Event()

        async def slow(peer: Peer) -> str:
            for _ in range(2):  # after two round trips the two know that sessions can go on
                assert await peer.request("name") == 1
            played.started.put_nowait("slow")
            await again.wait()
            return "done"

        played.server.on("slow", slow)
        process = await start("call", proxy.url, "slow", "--retry", "100", "--answer", "name=1")
        assert await played.started.get() == "slow"
        proxy.drop()
        again.set()
        assert await end(process) == (0, '"done"\n', "")
        again.clear()
        process = await start("call", proxy.url, "slow", "--answer", "name=1")
        assert await played.started.get() == "slow"
        proxy.drop()
        code, out, err = await end(process)
        assert (code, out) == (4, "") and err.endswith("requests in flight may have run\n")


# ---------------------------------------------------------------- streams and uploads


async def test_items_are_lines() -> None:
    async with serving() as played:
        assert await prints("stream", played.url, "countdown", "3") == "3\n2\n1\n"
        assert await prints("stream", played.url, "ticks", "5", "--take", "2") == "0\n1\n"
        assert await played.ended.get() == ("ticks", None)
        assert await prints("stream", played.url, "doubled", "-", given=b"1\n2\n") == "2\n4\n"


async def test_items_are_written_as_they_come() -> None:
    async with serving() as played:
        process = await start("stream", played.url, "ticks", "2")
        assert process.stdout is not None
        assert [await process.stdout.readline() for _ in range(2)] == [b"0\n", b"1\n"]
        process.terminate()
        assert (await end(process)).code == 143


async def test_lines_of_stdin_are_uploaded() -> None:
    async with serving() as played:
        assert await prints("call", played.url, "total", "-", given=b"1\n2\n\n 3") == "6\n"
        assert await prints("upload", played.url, "total", "-", given=b"") == "0\n"
        text = await prints("upload", played.url, "sent", "-", "--as", "text", given=b"a\r\n\n\xc3\xa4 b")
        assert json.loads(text) == ["a", "", "ä b"]


async def test_files_are_uploaded(tmp_path: Path) -> None:
    data = bytes(range(256)) * 1000
    (tmp_path / "data.bin").write_bytes(data)
    async with serving() as played:
        assert await prints("upload", played.url, "size", "--send", "data.bin", "--as", "bytes", cwd=tmp_path) == (
            f"{len(data)}\n"
        )
        assert await prints("upload", played.url, "size", "-", "--as", "bytes", given=data) == f"{len(data)}\n"


async def test_an_item_is_sent_when_its_line_is_complete() -> None:
    async with serving() as played:
        process = await start("upload", played.url, "total", "-", stdin=PIPE)
        assert process.stdin is not None
        assert await played.started.get() == "total"
        for number, total in ((1, 1), (2, 3)):
            process.stdin.write(b"%d\n" % number)
            assert await played.started.get() == f"total {total}"
        process.stdin.close()
        assert await end(process) == (0, "3\n", "")


async def test_a_line_that_is_no_item_ends_the_upload() -> None:
    async with serving() as played:
        process = await start("upload", played.url, "total", "-", stdin=PIPE)
        said = await end(process, b"1\nzwei\n3\n")
        assert (said.code, said.out) == (2, "")
        assert said.err.startswith("wsrpc: line 2 of stdin is not JSON: ")
        assert await played.ended.get() == ("total", None)
        said = await run("upload", played.url, "sent", "-", "--as", "text", given=b"\xff\n")
        assert said == (2, "", "wsrpc: line 1 of stdin is not text in UTF-8; give --as text or --as bytes\n")


async def test_a_handler_that_has_enough_ends_the_upload() -> None:
    async with serving() as played:

        async def first(items: AsyncIterator[int]) -> int:
            return await anext(items)

        played.server.on("first", first)
        process = await start("upload", played.url, "first", "-", stdin=PIPE)
        assert process.stdin is not None
        process.stdin.write(b"7\n8\n")  # and stdin stays open
        assert process.stdout is not None
        assert await process.stdout.readline() == b"7\n"
        assert await process.wait() == 0


async def test_an_event_has_left_when_the_command_ends() -> None:
    async with serving() as played:
        assert await prints("emit", played.url, "note", "1", '"x"') == ""
        assert await played.heard.get() == [1, "x"]
        assert await prints("emit", played.url, "say", '"hi"', "true", "--channel", "chat") == ""
        assert await played.heard.get() == ["hi", True]


async def test_a_large_event_has_left_when_the_command_ends(tmp_path: Path) -> None:
    text = "x" * 3_000_000
    (tmp_path / "large.txt").write_text(text, "utf-8")
    async with serving() as played:
        assert await prints("emit", played.url, "note", "@text:large.txt", cwd=tmp_path) == ""
        assert await played.heard.get() == [text]


# ---------------------------------------------------------------- the connection


async def test_headers_the_token_and_subprotocols() -> None:
    async with serving() as played:
        seen: list[tuple[str | None, str | None, list[str]]] = []

        @played.server.on_handshake
        def look(handshake: Handshake) -> None:
            headers = handshake.headers
            seen.append((headers.get("authorization"), headers.get("x-a"), list(handshake.subprotocols)))
            if handshake.subprotocols:
                handshake.subprotocol = handshake.subprotocols[0]

        add = ["call", played.url, "add", "2", "3"]
        await prints(*add)
        await prints(*add, env={"WSRPC_TOKEN": "t1"})
        await prints(*add, "--token", "t2", env={"WSRPC_TOKEN": "t1"})
        await prints("call", "--token=t3", *add[1:], "--header", "X-A: b:c")
        await prints(*add, "--subprotocol", "v2", "--subprotocol", "v1")
        assert seen == [
            (None, None, []),
            ("Bearer t1", None, []),
            ("Bearer t2", None, []),
            ("Bearer t3", "b:c", []),
            (None, None, ["v2", "v1"]),
        ]


async def test_nobody_sees_the_token() -> None:
    async with serving() as played:
        process = await start("call", played.url, "hang", "--token", "geheim-7", "--verbose")
        assert await played.started.get() == "hang"
        assert "geheim" not in Path(f"/proc/{process.pid}/cmdline").read_text("utf-8")
        process.terminate()
        out, err = await process.communicate()
        assert process.returncode == 143 and b"geheim" not in out + err and b"sent request hang" in err
        played.server.on_handshake(lambda handshake: handshake.reject(401, "log in"))
        process = await start("call", played.url, "hang", "--token", "geheim-7", "--verbose")
        out, err = await process.communicate()
        assert process.returncode == 3 and b"geheim" not in out + err


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


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--cacert", "client.key"], "cannot read the authorities in client.key: no certificate or crl found"),
        (
            ["--cert", "client.pem"],
            "cannot use the certificate in client.pem: it does not hold a certificate and its private key; --key names "
            "another file for the key",
        ),
        (
            ["--cert", "client.pem", "--key", "server.key"],
            "cannot use the certificate in client.pem with the key in server.key: key values mismatch",
        ),
    ],
)
async def test_certificates_that_cannot_be_used(options: list[str], said: str) -> None:
    assert await refusal(2, "call", "wss://a", "b", *options, cwd=CERTIFICATES) == said


async def test_a_server_without_tls_at_a_wss_url() -> None:
    async with serving() as played:
        said = await refusal(3, "call", played.url.replace("ws:", "wss:"), "add", "2", "3")
        assert said.startswith("could not connect: ") and said != "could not connect: "


async def test_the_profile_for_go_refuses_here_what_go_would_close_for() -> None:
    async with serving() as played:
        assert await prints("call", played.url, "add", "2", "3", "--profile", "go") == "5\n"
        large = json.dumps("x" * 40_000)
        assert "32" in await refusal(3, "call", played.url, "echo", large, "--profile", "go")


async def test_verbose_shows_the_messages() -> None:
    async with serving() as played:
        process = await start("call", played.url, "add", "2", "3", "--verbose")
        out, err = await process.communicate()
        assert out == b"5\n" and b"sent request add" in err and b"(2, 3)" in err


async def test_another_server_than_wsrpc_s_is_called_without_extensions() -> None:
    server = Server(extensions=False, limits=Limits())
    server.on("add", lambda a, b: a + b)
    async with server.listen("127.0.0.1", 0) as listening:
        assert await prints("call", f"ws://127.0.0.1:{listening.port}", "add", "2", "3") == "5\n"
