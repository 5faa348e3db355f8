"""Storage of the chat: messages in an SQLite file, with uploaded files beside it."""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

IMAGES = {
    ".avif": "image/avif",
    ".gif": "image/gif",
    ".jpeg": "image/jpeg",
    ".jpg": "image/jpeg",
    ".png": "image/png",
    ".webp": "image/webp",
}
"""Content types of the files that the page shows as pictures. Not .svg, which can have scripts."""

SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;  -- a commit does not wait for the disk: a crash of the machine may lose the last ones
CREATE TABLE IF NOT EXISTS message (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    room TEXT NOT NULL,
    author TEXT NOT NULL,
    text TEXT NOT NULL,
    time TEXT NOT NULL,
    file_name TEXT,
    file_size INTEGER
);
CREATE INDEX IF NOT EXISTS message_room ON message (room, number);
CREATE TABLE IF NOT EXISTS room (name TEXT PRIMARY KEY);
"""


@dataclass
class File:
    name: str
    size: int
    url: str
    image: bool

    @property
    def content_type(self) -> str:
        return IMAGES.get(suffix_of(self.name), "application/octet-stream")


@dataclass
class Message:
    number: int
    """Position in the order of all rooms. A page names it to ask for older messages."""
    id: str
    """Made by the page that sends the message, so that sending it again does not publish it twice."""
    room: str
    author: str
    text: str
    time: datetime
    file: File | None


class Store:
    """Messages and files. Several processes may use one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.db = sqlite3.connect(folder / "chat.sqlite3", isolation_level=None)  # each statement commits
        self.db.executescript(SCHEMA)

    # ---------------------------------------------------------------- messages

    def add(self, message_id: str, room: str, author: str, text: str, file: tuple[str, int] | None = None) -> Message:
        """Keep a message, and return it. If it was here already, it stays as it is."""
        self.db.execute(
            "INSERT INTO message (id, room, author, text, time, file_name, file_size) VALUES (?, ?, ?, ?, ?, ?, ?) "
            "ON CONFLICT (id) DO NOTHING",
            (message_id, room, author, text, datetime.now(UTC).isoformat(), *(file or (None, None))),
        )
        message = self.message(message_id)
        assert message is not None, "just added, and nothing is ever deleted"
        return message

    def message(self, message_id: str) -> Message | None:
        row = self.db.execute("SELECT * FROM message WHERE id = ?", (message_id,)).fetchone()
        return None if row is None else message_of(row)

    def newest(self, room: str, *, before: int | None, count: int) -> list[Message]:
        rows = self.db.execute(
            "SELECT * FROM message WHERE room = ? AND number < ? ORDER BY number DESC LIMIT ?",
            (room, 2**62 if before is None else before, count),
        )
        return [message_of(row) for row in rows]

    def add_room(self, name: str) -> bool:
        """Keep the name of a room; return False if it was here already."""
        return self.db.execute("INSERT OR IGNORE INTO room VALUES (?)", (name,)).rowcount == 1

    def rooms(self) -> list[str]:
        return [name for (name,) in self.db.execute("SELECT name FROM room")]

    # ---------------------------------------------------------------- files

    def path(self, file_id: str) -> Path:
        return self.folder / file_id

    def save(self, file_id: str, uploaded: Path) -> None:
        """Keep a file. If it was here already, it stays as it is."""
        with suppress(FileExistsError):
            self.path(file_id).hardlink_to(uploaded)


def suffix_of(name: str) -> str:
    return Path(name).suffix.lower()


def message_of(row: tuple[int, str, str, str, str, str, str | None, int | None]) -> Message:
    number, message_id, room, author, text, time, name, size = row
    file = None
    if name is not None and size is not None:
        url = f"files/{message_id}/{quote(name, safe='')}"
        file = File(name, size, url, suffix_of(name) in IMAGES)
    return Message(number, message_id, room, author, text, datetime.fromisoformat(time), file)
