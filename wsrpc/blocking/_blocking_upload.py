"""`upload` for programs without an event loop."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import BinaryIO

from .. import uploads
from ._blocking_client import Client
from ._delegate import inner_of


def upload(
    client: Client,
    name: str,
    source: str | os.PathLike[str] | BinaryIO,
    *,
    progress: Callable[[int, int], object] = lambda sent, size: None,
    timeout: float | None = None,
) -> str:
    """Send a file to the `Uploads` of a server, and return its id; see `wsrpc.uploads.upload`.

    ``progress`` is called in the thread of the event loop, so it must not call the client. Ctrl-C stops the upload.
    """
    call = partial(uploads.upload, inner_of(client), name, source, progress=progress, timeout=timeout)
    file: str = client._bridge.run(call)  # pyright: ignore[reportPrivateUsage]
    return file
