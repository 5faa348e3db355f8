"""The outcome of a run: a document that is written as JSON, and all that the report is made of."""

from __future__ import annotations

from pathlib import Path

import msgspec

from .measure import Sample

Samples = dict[str, dict[str, list[Sample]]]
"""By workload, then by subject: one for each round."""


class SubjectInfo(msgspec.Struct, kw_only=True):
    title: str
    kind: str
    """"wsrpc", "rpc" (another system with calls), "bare" (an echo) or "ceiling"."""


class Column(msgspec.Struct, kw_only=True):
    key: str
    title: str
    unit: str
    lower_is_better: bool


class SectionResult(msgspec.Struct, kw_only=True):
    key: str
    title: str
    base: str
    columns: list[Column]
    samples: Samples


class CurveResult(msgspec.Struct, kw_only=True):
    key: str
    title: str
    x: str
    y: str
    lines: dict[str, dict[int, list[Sample]]]
    """By subject, then by point."""


class TableResult(msgspec.Struct, kw_only=True):
    """A measurement that has a table of its own, made when it was measured."""

    key: str
    title: str
    columns: list[str]
    rows: list[list[str]]
    bad: int
    """Wrong and missing answers."""


class Run(msgspec.Struct, kw_only=True):
    date: str
    quick: bool
    rounds: int
    warm: float
    seconds: float
    """Of each slot."""
    took: float
    machine: dict[str, str]
    subjects: dict[str, SubjectInfo]
    """In the order of the tables."""
    sections: list[SectionResult]
    tables: list[TableResult]
    curves: list[CurveResult]


def load(path: Path) -> Run:
    return msgspec.json.decode(path.read_bytes(), type=Run)


def save(run: Run, path: Path) -> None:
    path.write_bytes(msgspec.json.format(msgspec.json.encode(run), indent=1) + b"\n")
