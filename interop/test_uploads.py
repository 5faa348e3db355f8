"""`upload` of each client to `Uploads`: what arrives in spite of all, and what is refused."""

from __future__ import annotations

import asyncio
import errno
import io
import os
import random
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO
from unittest.mock import AsyncMock

import pytest
from leftovers import nothing_left as nothing_left
from waiting import until

import wsrpc.blocking
from interop.page_client import Page
from wsrpc import (
    Client,
    ConnectionLost,
    Handshake,
    OutgoingCall,
    Overloaded,
    Peer,
    RemoteError,
    Router,
    Server,
    uploads,
)
from wsrpc.errors import Draining
from wsrpc.testing import FaultProxy
from wsrpc.uploads import Uploads, id_of, upload

pytestmark = pytest.mark.usefixtures("nothing_left")

PIECE = 64 * 1024
CONTENT = random.Random(1).randbytes(20 * PIECE + 17)
ID = id_of(io.BytesIO(CONTENT))
MODULE = (Path(uploads.__file__).parent / "browser" / "upload.js").as_uri()


class Watched(Uploads):
    """Calls a function after each piece, in the thread that has written it, with the bytes that are there."""

    after: Callable[[int], object] = staticmethod(lambda _: None)
    starts: list[int]
    """The offsets at which attempts have begun."""

    def write(self, owner: str, file: str, offset: int, piece: bytes) -> None:
        super().write(owner, file, offset, piece)
        if not piece:
            self.starts.append(offset)
        self.after(offset + len(piece))

    @property
    def files(self) -> dict[str, bytes]:
        """The contents by the names of the files."""
        return {path.name: path.read_bytes() for path in Path(self.folder).glob("*/*")}


class Site:
    """A server with uploads, whose clients have the principal that their URL names."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.server = Server()
        self.uploads = Watched(folder / "uploads", **options)
        self.uploads.starts = []
        self.uploads.serve(self.server, "files")
        self.server.on("open", self._note)
        self.server.on_handshake(self._log_in)
        self.server.on("read", self._read)
        self.url = ""
        self.peers: list[Peer] = []

    def _note(self, peer: Peer) -> None:
        self.peers.append(peer)

    def _read(self, file: str, peer: Peer) -> int:
        return len(self.uploads.path(file, peer).read_bytes())

    @staticmethod
    def _log_in(handshake: Handshake) -> None:
        handshake.principal = handshake.query.get("user")


@asynccontextmanager
async def serving(folder: Path, **options: Any) -> AsyncGenerator[Site]:
    site = Site(folder, **options)
    async with asyncio.timeout(60), site.server.listen() as listener:
        site.url = f"{listener.url}/?user=ada"
        yield site


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "PAUSE", (0.0, 0.01))


# ---------------------------------------------------------------- over what happens

Send = Callable[[str, Path, list[int]], Awaitable[str]]


async def from_python(url: str, path: Path, sent: list[int]) -> str:
    async with Client(url) as client:
        return await upload(client, "files", path, progress=lambda count, size: sent.append(count))


async def from_a_thread(url: str, path: Path, sent: list[int]) -> str:
    def run() -> str:
        with wsrpc.blocking.Client(url) as client, path.open("rb") as file:
            return wsrpc.blocking.upload(client, "files", file, progress=lambda count, size: sent.append(count))

    return await asyncio.to_thread(run)


async def from_a_page(url: str, path: Path, sent: list[int]) -> str:
    async with Page.start(url, codec="msgpack") as page:
        id, counts = await page.run(f"""
            const {{ upload }} = await import("{MODULE}")
            const {{ openAsBlob }} = await import("node:fs")
            const sent = []
            const id = await upload(client, "files", await openAsBlob("{path}"), {{ progress: (n) => sent.push(n) }})
            return [id, sent]""")
    sent += counts
    return str(id)


SENDERS: dict[str, Send] = {"python": from_python, "blocking": from_a_thread, "page": from_a_page}


@pytest.mark.parametrize("sender", SENDERS)
@pytest.mark.parametrize("trouble", ["the session ends", "the connection drops"])
@pytest.mark.parametrize("at", [0, 7 * PIECE, len(CONTENT)])
async def test_a_file_arrives_although(trouble: str, at: int, sender: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(CONTENT)
    loop, closing = asyncio.get_running_loop(), asyncio.Queue[asyncio.Task[None]]()
    async with serving(tmp_path) as site, FaultProxy(site.url) as proxy:

        def happen() -> None:
            if trouble == "the session ends":
                closing.put_nowait(loop.create_task(site.peers[-1].close(1012)))
            else:
                proxy.drop()

        def after(count: int) -> None:
            if count == at and len(site.uploads.starts) == 1:
                site.uploads.starts.append(-1)
                loop.call_soon_threadsafe(happen)

        site.uploads.after = after
        sent: list[int] = []
        assert await SENDERS[sender](proxy.url, tmp_path / "file", sent) == ID
        assert site.uploads.files == {ID: CONTENT}
        assert sent[0] == 0 and sent[-1] == len(CONTENT)
        first, mark, *further = site.uploads.starts
        assert (first, mark) == (0, -1)
        if trouble == "the session ends":
            [start] = further
            assert start >= at and start in sent
            await (await closing.get())
        else:
            assert further == [] and sent == sorted(sent)


async def test_an_upload_that_was_given_up_continues(tmp_path: Path) -> None:
    async with serving(tmp_path) as site, Client(site.url) as client:
        sending = asyncio.create_task(upload(client, "files", io.BytesIO(CONTENT)))
        loop = asyncio.get_running_loop()
        site.uploads.after = lambda count: count == 3 * PIECE and loop.call_soon_threadsafe(sending.cancel)
        with pytest.raises(asyncio.CancelledError):
            await sending
        assert await upload(client, "files", io.BytesIO(CONTENT)) == ID
        assert site.uploads.starts[0] == 0 and site.uploads.starts[1] >= 3 * PIECE
        assert await upload(client, "files", io.BytesIO(CONTENT)) == ID
        await client.of("files").request("append", ID, 0, send=[b"other bytes"])
        assert site.uploads.files == {ID: CONTENT}


PASSING = [ConnectionLost(outcome="not_sent"), Draining("no"), Overloaded("no"), RemoteError("no", code="gap")]


@pytest.mark.parametrize("error", [*PASSING, RemoteError("no", code="full"), ValueError("no")], ids=repr)
@pytest.mark.parametrize("event", ["size", "append"])
async def test_a_call_of_an_upload_fails_three_times(event: str, error: Exception, tmp_path: Path) -> None:
    left = [error] * 3

    async def failing(call: OutgoingCall, call_next: Callable[[OutgoingCall], Awaitable[Any]]) -> Any:
        if call.event == event and left:
            raise left.pop()
        return await call_next(call)

    async with serving(tmp_path) as site, Client(site.url) as client:
        client.use_outgoing(failing)
        sending = upload(client, "files", io.BytesIO(CONTENT))
        if error in PASSING:
            assert await sending == ID and left == []
            return
        with pytest.raises(type(error), match="no"):
            await sending
        assert len(left) == 2


@pytest.mark.parametrize("client", ["closed", "never connected"])
async def test_without_a_client_that_connects_an_upload_fails(client: str, tmp_path: Path) -> None:
    async with serving(tmp_path) as site:
        other = Client(site.url, offline="fail")
        loop, closing = asyncio.get_running_loop(), asyncio.Queue[asyncio.Task[None]]()

        def close() -> None:
            closing.put_nowait(loop.create_task(other.close()))

        if client == "closed":
            await other.connect()
            site.uploads.after = lambda count: count == PIECE and loop.call_soon_threadsafe(close)
        with pytest.raises(ConnectionLost):
            await upload(other, "files", io.BytesIO(CONTENT))
        if client == "closed":
            await (await closing.get())


async def test_a_file_is_sent_no_faster_than_the_server_saves_it(tmp_path: Path) -> None:
    content, sent, go_on = bytes(80 * PIECE), list[int](), threading.Event()
    async with serving(tmp_path) as site, Client(site.url) as client:
        site.uploads.after = lambda count: count > PIECE and go_on.wait(60)
        uploading = upload(client, "files", io.BytesIO(content), progress=lambda count, size: sent.append(count))
        sending = asyncio.create_task(uploading)
        await until(lambda: sent)
        for _ in range(300):  # enough for all, if nothing held it back
            await client.of("files").request("size", ID)
        assert 2 * PIECE <= sent[-1] <= 10 * PIECE, "the window of the stream, and what the handler has in hand"
        with pytest.raises(TimeoutError):
            await upload(client, "files", io.BytesIO(CONTENT), timeout=0.01)
        go_on.set()
        assert await client.request("read", await sending) == len(content)


@pytest.mark.parametrize("when", ["before", "meanwhile"])
async def test_two_clients_of_a_user_send_the_same_file(when: str, tmp_path: Path) -> None:
    async with serving(tmp_path) as site, Client(site.url) as one, Client(site.url) as other:
        loop, begun = asyncio.get_running_loop(), asyncio.Event()
        site.uploads.after = lambda count: count == 5 * PIECE and loop.call_soon_threadsafe(begun.set)
        first = asyncio.create_task(upload(one, "files", io.BytesIO(CONTENT)))
        if when == "meanwhile":
            await begun.wait()
        second = upload(other, "files", io.BytesIO(CONTENT))
        assert [*await asyncio.gather(first, second)] == [ID, ID]
        assert site.uploads.files == {ID: CONTENT}


@pytest.mark.parametrize(
    ("change", "left"),
    [
        (lambda file: file.write(b"x"), {}),
        (lambda file: os.truncate(file.fileno(), 9 * PIECE), {f"{ID}.part": CONTENT[: 9 * PIECE]}),
        (lambda file: file.seek(0, os.SEEK_END) and file.write(b"more"), {ID: CONTENT}),
    ],
    ids=["other bytes", "shorter", "longer"],
)
async def test_a_file_that_changes_meanwhile(change: Any, left: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(CONTENT)
    async with serving(tmp_path) as site, Client(site.url) as client:

        def progress(count: int, size: int) -> None:
            if count == PIECE:
                with (tmp_path / "file").open("r+b") as file:
                    file.seek(15 * PIECE)
                    change(file)

        sending = upload(client, "files", tmp_path / "file", progress=progress)
        if ID in left:
            assert await sending == ID
        else:
            with pytest.raises(RemoteError, match="incomplete, or has changed") as caught:
                await sending
            assert caught.value.code == "incomplete"
        assert site.uploads.files == left


async def test_a_file_that_was_begun_again_is_not_taken_for_the_complete_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begun_again(file: BinaryIO) -> str:
        [part] = (tmp_path / "uploads").glob("*/*")
        part.rename(tmp_path / "taken")
        part.write_bytes(b"1")
        return id_of(file)

    async with serving(tmp_path) as site, Client(site.url) as client:
        monkeypatch.setattr(uploads, "id_of", begun_again)
        with pytest.raises(RemoteError, match="no longer there"):
            await client.of("files").request("append", ID, 0, send=[CONTENT])
        assert site.uploads.files == {f"{ID}.part": b"1"}


# ---------------------------------------------------------------- what is refused

ZEROS = "0" * 64
SIZE, APPEND = "size", "append"
REFUSED: dict[str, tuple[str, tuple[Any, ...], list[bytes] | None, str]] = {
    "a path": (SIZE, ("../secret",), None, "wsrpc.bad_arguments"),
    "a path, to append": (APPEND, ("../secret", 0), [b"x"], "wsrpc.bad_arguments"),
    "no size": (SIZE, (ZEROS,), None, "wsrpc.bad_arguments"),
    "a line end": (SIZE, (f"{ZEROS}-5\n",), None, "wsrpc.bad_arguments"),
    "another spelling": (SIZE, (f"{ZEROS}-05",), None, "wsrpc.bad_arguments"),
    "other digits": (SIZE, (f"{ZEROS}-\u0665",), None, "wsrpc.bad_arguments"),
    "a negative size": (SIZE, (f"{ZEROS}--5",), None, "wsrpc.bad_arguments"),
    "a suffix": (SIZE, (f"{ZEROS}-5.part",), None, "wsrpc.bad_arguments"),
    "a size without end": (SIZE, (f"{ZEROS}-{'9' * 16}",), None, "wsrpc.bad_arguments"),
    "a negative offset": (APPEND, (f"{ZEROS}-5", -1), [b"x"], "wsrpc.bad_arguments"),
    "an offset beyond the file": (APPEND, (f"{ZEROS}-5", 9), [b"x"], "gap"),
    "a gap": (APPEND, (f"{ZEROS}-5", 1), [b"x"], "gap"),
    "a gap after what is there": (APPEND, (f"{ZEROS}-6", 3), [b"xyz"], "gap"),
    "too many bytes": (APPEND, (f"{ZEROS}-5", 0), [b"123456"], "too_big"),
    "too many bytes, later": (APPEND, (f"{ZEROS}-5", 0), [b"123", b"456"], "too_big"),
    "too few bytes": (APPEND, (f"{ZEROS}-5", 0), [b"1234"], "incomplete"),
    "none of the bytes": (APPEND, (f"{ZEROS}-5", 0), [], "incomplete"),
    "wrong bytes": (APPEND, (f"{ZEROS}-5", 0), [b"12345"], "incomplete"),
    "no bytes with a hash": (APPEND, (f"{'1' * 64}-0", 0), [], "incomplete"),
    "a file that is too large": (APPEND, (f"{ZEROS}-{2**21 + 1}", 0), [b"x"], "too_big"),
    "a file that is too large, before it is hashed": (SIZE, (f"{ZEROS}-{2**21 + 1}",), None, "too_big"),
    "not bytes": (APPEND, (f"{ZEROS}-5", 0), [1], "wsrpc.bad_item"),  # type: ignore[list-item]
    "a file that is not there": ("read", (f"{ZEROS}-5",), None, "no_file"),
    "a path, to read": ("read", ("../../file",), None, "no_file"),
    "a line end, to read": ("read", (f"{ZEROS}-5\n",), None, "no_file"),
    "the folder": ("read", (".",), None, "no_file"),
    "an incomplete file": ("read", (f"{ZEROS}-6",), None, "no_file"),
    "an incomplete file, by its name": ("read", (f"{ZEROS}-6.part",), None, "no_file"),
}


@pytest.mark.parametrize("row", REFUSED)
async def test_refused(row: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"secret")
    event, args, pieces, code = REFUSED[row]
    async with serving(tmp_path, owner_bytes=2**21) as site, Client(site.url) as client:
        caller = client if event == "read" else client.of("files")
        with pytest.raises(RemoteError, match="incomplete"):
            await client.of("files").request("append", f"{ZEROS}-6", 0, send=[b"12"])
        with pytest.raises(RemoteError) as caught:
            await caller.request(event, *args, send=pieces)
        assert caught.value.code == code
        assert site.uploads.files.pop(f"{ZEROS}-6.part") == b"12"
        assert sum(map(len, site.uploads.files.values())) <= 2 + 4


async def test_users_do_not_reach_each_others_files(tmp_path: Path) -> None:
    async with serving(tmp_path) as site, Client(site.url) as ada, Client(site.url.replace("ada", "bob")) as bob:
        await upload(ada, "files", io.BytesIO(CONTENT))
        assert await bob.of("files").request("size", ID) == 0
        with pytest.raises(RemoteError, match="there is no such file: upload it"):
            await bob.request("read", ID)
        async with Client(site.url.partition("?")[0]) as nobody:
            for asking in upload(nobody, "files", io.BytesIO(CONTENT)), nobody.request("read", ID):
                with pytest.raises(RemoteError, match="only users who have logged in") as caught:
                    await asking
                assert caught.value.code == "no_principal"


async def test_the_room_of_a_user_is_bounded_also_if_many_files_begin_at_once(tmp_path: Path) -> None:
    """Incomplete files count as if they were complete, and small ones as 1 MiB."""
    async with serving(tmp_path, owner_bytes=4 * 2**20) as site, Client(site.url) as client:
        begins = [client.of("files").request("append", f"{ZEROS}-{n}", 0, send=[]) for n in range(1, 30)]
        codes = {getattr(error, "code", None) for error in await asyncio.gather(*begins, return_exceptions=True)}
        assert codes <= {"incomplete", "full"} and len(site.uploads.files) <= 4
        site.uploads.owner_bytes = 2**20
        for name in site.uploads.files:
            with pytest.raises(RemoteError, match="incomplete"):  # it goes on, although there is no room for another
                await client.of("files").request("append", name.removesuffix(".part"), 0, send=[])
        site.uploads.owner_bytes = 4 * 2**20
        async with Client(site.url.replace("ada", "bob")) as other:
            assert await upload(other, "files", io.BytesIO(CONTENT)) == ID


@pytest.mark.parametrize("silent", [0, 70])
async def test_incomplete_files_that_nobody_sends_give_way_to_a_new_one(silent: int, tmp_path: Path) -> None:
    """The oldest first. One that is sent does not, unless nothing has come for a minute: its process may be killed."""
    go_on = asyncio.Event()

    async def slowly() -> AsyncGenerator[bytes]:
        yield CONTENT[:PIECE]
        await go_on.wait()
        yield CONTENT[PIECE:]

    async with serving(tmp_path, owner_bytes=4 * 2**20) as site, Client(site.url) as client:

        async def begin(size: int) -> Any:
            with pytest.raises(RemoteError) as caught:
                await client.of("files").request("append", f"{ZEROS}-{size}", 0, send=[b"1"])
            return caught.value.code, {len(CONTENT) if ID in name else int(name[65:-5]) for name in site.uploads.files}

        for size in 5, 6:
            await begin(size)
        sending = asyncio.create_task(client.of("files").request("append", ID, 0, send=slowly()))
        await until(lambda: PIECE in map(len, site.uploads.files.values()))
        for path in Path(site.uploads.folder).glob("*/*"):
            os.utime(path, (path.stat().st_atime, path.stat().st_mtime - silent))
        small, mid, large = 3 * 2**19, 2**21, 3 * 2**20
        assert await begin(small) == ("incomplete", {6, len(CONTENT), small})
        assert await begin(mid) == ("incomplete", {small if silent else len(CONTENT), mid})
        assert await begin(large) == (("incomplete", {large}) if silent else ("full", {len(CONTENT), mid}))
        go_on.set()
        with pytest.raises(RemoteError, match="missing") if silent else nullcontext():
            await sending


class Source(io.BytesIO):
    """Calls a function when it is read."""

    on_read: Callable[[], object]

    def read(self, size: int | None = -1, /) -> bytes:
        self.on_read()
        return super().read(size)


async def test_what_is_refused_is_not_read(tmp_path: Path) -> None:
    source, sent = Source(CONTENT), list[tuple[int, int]]()
    source.on_read = lambda: pytest.fail("it was read")
    async with serving(tmp_path, max_bytes=PIECE) as site, Client(site.url) as client:
        with pytest.raises(RemoteError, match="largest file has 65,536 bytes"):
            await upload(client, "files", source, progress=lambda *args: sent.append(args))
        assert sent == [(0, len(CONTENT))]
        with pytest.raises(TypeError, match="progress= takes a plain function, not an async one"):
            await upload(client, "files", source, progress=AsyncMock())
        async with Page.start(site.url, codec="msgpack") as page:
            said = await page.run(f"""
                const {{ upload }} = await import("{MODULE}")
                const said = [], say = (...all) => void said.push(String(all))
                const file = Object.assign(new Blob(["x".repeat(70_000)]), {{ slice: () => say("it was read") }})
                await upload(client, "files", file, {{ progress: say }}).catch(say)
                await upload(client, "files", "a.jpg", {{ progress: say }}).catch(say)
                return said""")
            refused = "RemoteError: the largest file has 65,536 bytes"
            assert said == ["0,70000", refused, "TypeError: upload() takes a File or Blob, got a.jpg"]


async def test_an_upload_that_was_cancelled_no_longer_reads_the_source(tmp_path: Path) -> None:
    source, loop = Source(CONTENT * 20), asyncio.get_running_loop()
    async with serving(tmp_path) as site, Client(site.url) as client:
        sending = asyncio.create_task(upload(client, "files", source))
        source.on_read = lambda: loop.call_soon_threadsafe(sending.cancel)
        with pytest.raises(asyncio.CancelledError):
            await sending
        assert await upload(client, "files", source) == id_of(io.BytesIO(CONTENT * 20))


@pytest.mark.parametrize("age", [0, 2 * 86_400])
async def test_files_that_nobody_moves_are_deleted_after_a_time(age: int, tmp_path: Path) -> None:
    async with serving(tmp_path) as site, Client(site.url) as client:
        old, new = b"complete", b"new"
        await upload(client, "files", io.BytesIO(old))
        with pytest.raises(RemoteError, match="incomplete"):
            await client.of("files").request("append", f"{ZEROS}-5", 0, send=[b"1234"])
        names = set(site.uploads.files)
        [folder] = Path(site.uploads.folder).iterdir()
        for other in folder / ".DS_Store", folder.parent / "photos" / ID:  # not ours
            other.parent.mkdir(exist_ok=True)
            other.touch()
        for path in Path(site.uploads.folder).glob("*/*"):
            os.utime(path, (path.stat().st_atime, path.stat().st_mtime - age))
        again = Watched(site.uploads.folder)  # another process
        again.starts = []
        again.write(folder.name, id_of(io.BytesIO(new)), 0, b"")
        others = {".DS_Store", ID, f"{id_of(io.BytesIO(new))}.part"}
        assert set(again.files) == others | (set() if age else names)


async def test_a_full_disk_is_an_error_that_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with serving(tmp_path) as site, Client(site.url) as client:

        def full(count: int) -> None:
            if count > 3 * PIECE:
                raise OSError(errno.ENOSPC, "No space left on device")

        site.uploads.after = full
        with pytest.raises(RemoteError, match="cannot save the file: No space left on device") as caught:
            await upload(client, "files", io.BytesIO(CONTENT))
        assert caught.value.code == "not_saved" and "a file that is uploaded cannot be saved" in caplog.text
        site.uploads.after = lambda _: None
        assert await upload(client, "files", io.BytesIO(CONTENT)) == ID


class InMemory(Uploads):
    """A store of a user. It is not a folder."""

    contents: dict[tuple[str, str], bytearray]

    def size(self, owner: str, file: str) -> int:
        return len(self.contents.get((owner, file), b""))

    def write(self, owner: str, file: str, offset: int, piece: bytes) -> None:
        content = self.contents.setdefault((owner, file), bytearray())
        content[offset : offset + len(piece)] = piece

    def finish(self, owner: str, file: str) -> None:
        assert id_of(io.BytesIO(self.contents[owner, file])) == file


async def test_bytes_can_be_kept_elsewhere(tmp_path: Path) -> None:
    async with serving(tmp_path) as site, Client(site.url) as client:
        other = InMemory("")
        other.contents = {}
        router = Router()
        other.serve(router, "elsewhere")
        site.server.include(router)
        assert await upload(client, "elsewhere", io.BytesIO(CONTENT)) == ID
        assert [bytes(content) for content in other.contents.values()] == [CONTENT] and site.uploads.files == {}


async def test_a_source_that_cannot_be_read_is_the_callers_error(tmp_path: Path) -> None:
    async with serving(tmp_path) as site, Client(site.url) as client:
        with pytest.raises(FileNotFoundError):
            await upload(client, "files", tmp_path / "none")
        assert await upload(client, "files", io.BytesIO()) == f"{ZEROS}-0"
        await until(lambda: site.uploads.files == {f"{ZEROS}-0": b""})
