"""Conversations in an SQLite file, which the workers share. It stands for the database of your application."""

from __future__ import annotations

import sqlite3
from typing import Any

SCHEMA = """
PRAGMA journal_mode = WAL;
CREATE TABLE IF NOT EXISTS conversation (id TEXT PRIMARY KEY, owner TEXT NOT NULL, staff TEXT);
CREATE TABLE IF NOT EXISTS message (
    number INTEGER PRIMARY KEY,
    conversation TEXT NOT NULL REFERENCES conversation,
    id TEXT NOT NULL,  -- made by the page, so that saying it again does not store it twice
    author TEXT NOT NULL,  -- user or staff
    text TEXT NOT NULL,
    state TEXT NOT NULL,  -- asked: the model has to answer. done, failed, stopped or lost: nothing is to be done
    answer TEXT NOT NULL DEFAULT '',
    round INTEGER NOT NULL DEFAULT 1,  -- one more for each Retry
    UNIQUE (conversation, id)
);
"""


class Conversations:
    def __init__(self, path: str) -> None:
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.row_factory = sqlite3.Row
        self._db.executescript(SCHEMA)

    def owner(self, conversation: str) -> str | None:
        row = self._db.execute("SELECT owner FROM conversation WHERE id = ?", [conversation]).fetchone()
        return row and str(row["owner"])

    def begin(self, conversation: str, owner: str) -> None:
        self._db.execute("INSERT OR IGNORE INTO conversation (id, owner) VALUES (?, ?)", [conversation, owner])

    def staff(self, conversation: str) -> str | None:
        """Return who has taken the conversation over from the model."""
        row = self._db.execute("SELECT staff FROM conversation WHERE id = ?", [conversation]).fetchone()
        staff: str | None = row and row["staff"]
        return staff

    def set_staff(self, conversation: str, staff: str | None) -> None:
        self._db.execute("UPDATE conversation SET staff = ? WHERE id = ?", [staff, conversation])

    def messages(self, conversation: str, id: str | None = None) -> list[dict[str, Any]]:
        """Return the messages in their order: all, or the one with this id."""
        columns = "SELECT id, author, text, state, answer, round FROM message"
        where = "WHERE conversation = ? AND id = coalesce(?, id) ORDER BY number"
        return [dict(row) for row in self._db.execute(f"{columns} {where}", [conversation, id])]

    def add(self, conversation: str, id: str, author: str, text: str, state: str) -> dict[str, Any]:
        """Store a message. Return it, or the one that has this id already."""
        insert = "INSERT OR IGNORE INTO message (conversation, id, author, text, state) VALUES (?, ?, ?, ?, ?)"
        self._db.execute(insert, [conversation, id, author, text, state])
        return self.messages(conversation, id)[0]

    def again(self, conversation: str, id: str, round: int) -> dict[str, Any]:
        """Let the model answer a message again, unless that was done or the answer is whole."""
        update = "UPDATE message SET state = 'asked', answer = '', round = round + 1"
        where = "WHERE conversation = ? AND id = ? AND round = ? AND state NOT IN ('asked', 'done')"
        self._db.execute(f"{update} {where}", [conversation, id, round])
        return self.messages(conversation, id)[0]

    def end(self, conversation: str, id: str, round: int, state: str, answer: str = "") -> dict[str, Any]:
        """Store an answer, or that there will be none. The first state stays, and the longest text of a stopped one."""
        is_longer = "state IN ('asked', 'stopped') AND length(?1) > length(answer)"
        changes = f"answer = iif({is_longer}, ?1, answer), state = iif(state = 'asked', ?2, state)"
        update = f"UPDATE message SET {changes} WHERE conversation = ?3 AND id = ?4 AND round = ?5"
        self._db.execute(update, [answer, state, conversation, id, round])
        return self.messages(conversation, id)[0]
