"""Uploads of files that continue after a lost session, a restarted program or a reloaded page.

`upload` sends a file from a Python client, and the module ``upload.js`` from a page. `Uploads` receives files on a
server. The result of an upload is the id of the file, which the client passes to a handler of yours.

**Ids.** An id is a SHA-256 of the content, ``-`` and the number of bytes, such as ``"9f8e…c1-5000000"``. The hash is
that of the first MiB after 32 zero bytes, then that of each further MiB after the 32 bytes of the hash before.

**Handlers.** ``Uploads(...).serve(server, "files")`` registers two handlers on the named channel ``"files"``. The
request ``size`` returns how many bytes of a file are there. The upload ``append`` sends the bytes from an offset on.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import re
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, TypeVar

from msgspec import Meta

from ._base.logs import logger
from ._base.retry import worth_asking
from ._client.client import Client
from ._core.api.peer import Peer
from ._core.api.registration import Router
from ._core.handlers.callables import is_async
from ._keyed.keeper import principal_text
from .errors import RpcError, WsrpcError

if TYPE_CHECKING:
    from ._server.server import Server

__all__ = ["Uploads", "id_of", "upload"]

T = TypeVar("T")

PIECE = 64 * 1024
"""Bytes of an item of an upload."""
PAUSE = 0.5, 2.0
"""Seconds between two attempts of a client, at least and at most."""
SILENT = 60.0
"""Seconds since the last byte after which an incomplete file gives way to a new one. At the end of an attempt, the time
of the file is put back by so much."""
MiB = 1024**2
HASH = "?" * 64
"""Pattern of the names of files with a hash. Other files in the folder are not ours."""
ID = r"^[0-9a-f]{64}-(0|[1-9][0-9]{0,14})$(?!\n)"
"""Means the same in JavaScript, because it is in the contract."""

Id = Annotated[str, Meta(pattern=ID)]
Offset = Annotated[int, Meta(ge=0)]


@dataclass(eq=False)
class Uploads:
    """Files that users upload, in a folder. Several processes can share the folder.

    Each user has files of its own, by `Peer.principal`. It must be a string or an integer; without one, uploads are
    refused with the code ``"no_principal"``. A complete file waits in the folder for a handler, which gets its id, and
    moves the file, or makes a hard link to it: `path` says where it is. Do not share files between users by their ids:
    a user could still change an own file while its content is compared with its id.

    To keep bytes elsewhere, override `size`, `write` and `finish`. They run in threads, several at once, also for one
    file: a user may upload it in two tabs, and an old connection may still write. An `OSError` is logged, and fails the
    upload with the code ``"not_saved"``.

    Args:
        folder: is made when it is needed.
        max_bytes: maximum size of a file. A larger one is refused with the code ``"too_big"``.
        owner_bytes: maximum number of bytes of a user in the folder. Incomplete files count as if they were complete,
            and each file as at least 1 MiB. If a new one has no room, incomplete ones that nobody sends are
            deleted, the oldest first: those whose upload was cancelled or has failed, or whose session has ended, and
            those to which nothing was written for 60 seconds. What would still exceed it is refused with the code
            ``"full"``.
        keep: seconds after which a file that is still there is deleted, complete or not, since it was last written. The
            folder is searched for such files when a new one begins, 24 times in this time.
    """

    folder: str | os.PathLike[str]
    _: KW_ONLY
    max_bytes: int = 4 * 1024 * MiB
    owner_bytes: int = 16 * 1024 * MiB
    keep: float = 86_400.0
    _swept: float = field(default=0.0, init=False, repr=False)

    def serve(self, registrar: Server | Router, name: str) -> None:
        """Register the handlers on the named channel ``name`` of a server or a router."""

        def check(file: str, peer: Peer) -> tuple[str, int]:
            owner, total = _owner_of(peer), _size_in(file)
            if total > (largest := min(self.max_bytes, self.owner_bytes)):
                raise RpcError(f"the largest file has {largest:,} bytes", code="too_big")
            return owner, total

        async def size(file: Id, peer: Peer) -> int:
            return await _in_thread(self.size, check(file, peer)[0], file)

        async def append(file: Id, offset: Offset, pieces: AsyncIterator[bytes], peer: Peer) -> None:
            owner, total = check(file, peer)
            lock = Lock()  # after a cancellation, a write may still run

            def alone(function: Callable[..., None], *args: Any) -> None:
                with lock:
                    function(owner, file, *args)

            try:
                await _in_thread(alone, self.write, offset, b"")
                async for piece in pieces:
                    if (offset := offset + len(piece)) > total:
                        raise RpcError("more bytes than the file has", code="too_big")
                    await _in_thread(alone, self.write, offset - len(piece), piece)
                await _in_thread(self.finish, owner, file)
            finally:
                await asyncio.to_thread(alone, self._leave, offset)

        channel = registrar.of(name)
        channel.on("size", size)
        channel.on("append", append)

    def path(self, file: str, peer: Peer) -> Path:
        """Return where a complete file of the user of ``peer`` is, for a handler that moves or reads it.

        Args:
            file: the id, as the client has passed it.

        Raises:
            RpcError: there is no such file, with the code ``"no_file"``, or the peer has no principal.
        """
        owner = _owner_of(peer)
        if not re.match(ID, file) or not (path := self._paths(owner, file)[0]).is_file():
            raise RpcError("there is no such file: upload it", code="no_file")
        return path

    def size(self, owner: str, file: str) -> int:
        """Return how many bytes there are without a gap. A complete file has as many as its id says.

        Args:
            owner: a hash of the principal, as 64 hexadecimal digits.
            file: the id.
        """
        path, part = self._paths(owner, file)
        for each in (path, part):
            with suppress(FileNotFoundError):
                return each.stat().st_size
        return 0

    def write(self, owner: str, file: str, offset: int, piece: bytes) -> None:
        """Write bytes at their offset, also where there are some. For a complete file, this has no effect.

        Each attempt begins with an empty piece: a new file is begun or refused there.

        Raises:
            RpcError: the file is refused, or ``offset`` is beyond the size: after the code ``"gap"``, clients ask for
                the size again.
        """
        path, part = self._paths(owner, file)
        if not (offset or piece or path.exists() or part.exists()):
            self._start(part)
        with suppress(FileNotFoundError), part.open("r+b") as opened:
            if offset <= opened.seek(0, os.SEEK_END):
                opened.seek(offset)
                opened.write(piece)
                if not piece:
                    os.utime(part)  # it does not give way from now on
                return
        if not path.exists():
            raise RpcError("a part of the file is missing", code="gap")

    def finish(self, owner: str, file: str) -> None:
        """Compare the content with the id; see `id_of`. For a complete file, this has no effect.

        Raises:
            RpcError: bytes are missing or wrong (``"incomplete"``), or there is no file any more (``"gap"``).
        """
        path, part = self._paths(owner, file)
        with suppress(FileNotFoundError):  # another call has finished it
            if part.stat().st_size == _size_in(file):
                with part.open("rb") as opened:
                    found, stat = id_of(opened), os.fstat(opened.fileno())
                if not os.path.samestat(stat, part.stat()):
                    raise FileNotFoundError("it was taken, and begun again")
                if found == file:
                    part.replace(path)  # only complete files have this name
                else:
                    part.unlink()
            if not path.exists():
                raise RpcError("the file is incomplete, or has changed", code="incomplete")
        if not path.exists():
            raise RpcError("the file is no longer there", code="gap")

    def _paths(self, owner: str, file: str) -> tuple[Path, Path]:
        path = Path(self.folder, owner, file)
        return path, path.with_suffix(".part")

    def _leave(self, owner: str, file: str, offset: int) -> None:
        """Let an incomplete file give way from now on, unless another attempt has gone on with it."""
        part, then = self._paths(owner, file)[1], time.time() - SILENT
        with suppress(OSError):
            if (stat := part.stat()).st_size <= offset:
                os.utime(part, (then, min(then, stat.st_mtime)))

    def _start(self, part: Path) -> None:
        now = time.time()
        if now > self._swept + self.keep / 24:
            self._swept = now
            for path in Path(self.folder).glob(f"{HASH}/{HASH}-*"):
                with suppress(FileNotFoundError):
                    if path.stat().st_mtime < now - self.keep:
                        path.unlink()
        part.parent.mkdir(parents=True, exist_ok=True)
        part.touch()  # before the sum, so that of several that begin at once, none is overlooked
        left, sizes = list[tuple[float, Path]](), dict[Path, int]()
        for path in part.parent.glob(f"{HASH}-*"):
            with suppress(FileNotFoundError):
                stat, sizes[path] = path.stat(), max(MiB, _size_in(path.stem))
                if path.suffix and stat.st_mtime <= now - SILENT:
                    left.append((stat.st_mtime, path))
        excess = sum(sizes.values()) - self.owner_bytes
        if excess > sum(sizes[path] for _, path in left):
            part.unlink(missing_ok=True)
            text = f"no more room: your files may have {self.owner_bytes:,} bytes, and are kept for {self.keep:,.0f} s"
            raise RpcError(text, code="full")
        for _, path in sorted(left):
            if excess > 0:
                path.unlink(missing_ok=True)
                excess -= sizes[path]


def _owner_of(peer: Peer) -> str:
    principal = principal_text(peer.principal)
    if principal is None:
        raise RpcError("only users who have logged in can upload files", code="no_principal")
    return hashlib.sha256(principal.encode()).hexdigest()


def _size_in(file: str) -> int:
    return int(file.partition("-")[2])


async def _in_thread(function: Callable[..., T], *args: Any) -> T:
    try:
        return await asyncio.to_thread(function, *args)
    except OSError as exc:
        logger.error("a file that is uploaded cannot be saved", exc_info=exc)
        raise RpcError(f"the server cannot save the file: {exc.strerror}", code="not_saved") from exc


def id_of(file: BinaryIO) -> str:
    """Return the id of the content of a binary file; see the module."""
    file.seek(0)
    return _id_of(iter(lambda: file.read(MiB), b""))


def _id_of(blocks: Iterable[bytes]) -> str:
    digest, size = bytes(32), 0
    for block in blocks:
        digest, size = hashlib.sha256(digest + block).digest(), size + len(block)
    return f"{digest.hex()}-{size}"


def _open(source: str | os.PathLike[str] | BinaryIO) -> AbstractContextManager[BinaryIO]:
    return Path(source).open("rb") if isinstance(source, str | os.PathLike) else nullcontext(source)


async def upload(
    client: Client,
    name: str,
    source: str | os.PathLike[str] | BinaryIO,
    *,
    progress: Callable[[int, int], object] = lambda sent, size: None,
    timeout: float | None = None,
) -> str:
    """Send a file to the `Uploads` of a server, and return its id. Pass the id to a handler of yours.

    The server is asked whether it takes a file of this size. The file is read for its id, and then sent as fast as the
    server saves it, but for what the server has already. When the session ends, or the server drains or is overloaded,
    the upload continues as soon as it can. Cancelling is safe: the next call continues, unless new files of the user
    needed the room.

    Args:
        name: the name that was passed to `Uploads.serve`.
        source: a path, or a binary file that is open for reading and can seek. It is read in threads.
        progress: a plain function, called with the bytes that were sent, and the size of the file: with 0 before the
            file is read for its id, at the beginning of each attempt, and after each piece.
        timeout: maximum number of seconds for everything. None: no limit.

    Raises:
        ConnectionLost, ConnectFailed: the client is closed, or has given up.
        RemoteError: the server refuses the file. The code is one of `Uploads`, or ``"incomplete"`` if the file has
            changed meanwhile.
        TimeoutError: the time is over.
        OSError: the file cannot be read.
        TypeError: ``progress`` is async.
    """
    if is_async(progress):
        raise TypeError(f"progress= takes a plain function, not an async one like {progress!r}")
    channel, lock, ended, file = client.of(name), Lock(), False, ""
    with await asyncio.to_thread(_open, source) as opened:

        def read(offset: int, count: int) -> bytes:
            with lock:  # the thread of an attempt that has failed may still read, but not after the end
                if ended:
                    return b""
                opened.seek(offset)
                return opened.read(count)

        async def pieces(offset: int) -> AsyncIterator[bytes]:
            while piece := await asyncio.to_thread(read, offset, min(PIECE, size - offset)):
                yield piece
                offset += len(piece)
                progress(offset, size)

        try:
            async with asyncio.timeout(timeout):
                size = await asyncio.to_thread(opened.seek, 0, os.SEEK_END)
                progress(0, size)
                while True:
                    try:
                        if not file:
                            await channel.request("size", f"{'0' * 64}-{size}", timeout=None)  # it may be too big
                            file = await asyncio.to_thread(_id_of, (read(at, MiB) for at in range(0, size, MiB)))
                            size = _size_in(file)
                        offset = min(size, await channel.request("size", file, returns=Offset, timeout=None))
                        progress(offset, size)
                        await channel.request("append", file, offset, send=pieces(offset), timeout=None)
                        return file
                    except WsrpcError as exc:
                        passes = worth_asking(exc) or (isinstance(exc, RpcError) and exc.code == "gap")
                        if client.state in ("idle", "closed") or not passes:
                            raise
                    await asyncio.sleep(random.uniform(*PAUSE))
        finally:
            with lock:
                ended = True
