"""The lines of the latency table: which server is asked what, and which line each is compared with."""

from __future__ import annotations

from dataclasses import dataclass

from ..protocols import ADD, ADD_ASYNC, Call, Texts
from ..subjects import SUBJECTS, Subject


@dataclass(frozen=True)
class Line:
    """One line of the table."""

    subject: Subject
    call: Call
    base: str
    """The subject of the line that it is compared with, at the same rate: a bare echo."""

    @property
    def key(self) -> str:
        return f"{self.subject.key} {self.call.name}"

    @property
    def title(self) -> str:
        if not self.subject.is_wsrpc:
            return self.subject.title
        return f"{self.subject.title}, {'async def' if self.call == ADD_ASYNC else 'def'} handler"

    @property
    def is_base(self) -> bool:
        return self.base == self.subject.key

    @property
    def texts(self) -> Texts:
        texts = None if self.subject.speaks is None else self.subject.speaks.texts(self.call)
        assert texts is not None, f"{self.key} cannot be asked that"
        return texts


def lines(without: tuple[str, ...] = ()) -> list[Line]:
    """Return the lines, those of `_COMPARED` that are not left out by their key or by what they need."""
    subjects = {subject.key: subject for subject in SUBJECTS}
    return [
        Line(subject, call, base)
        for key, call, base in _COMPARED
        if (subject := subjects.get(key)) is not None and not {key, *subject.needs} & {*without}
    ]


_COMPARED = (
    ("websockets", ADD, "websockets"),
    ("wsrpc", ADD, "websockets"),
    ("wsrpc", ADD_ASYNC, "websockets"),
    ("wsrpc-picows", ADD, "websockets"),
    ("uvicorn", ADD, "uvicorn"),
    ("wsrpc-asgi", ADD, "uvicorn"),
    ("wsrpc-uvicorn", ADD, "uvicorn"),
    ("js", ADD, "websockets"),
)
"""Key of the subject, what it is asked, and its base, which comes before it."""
