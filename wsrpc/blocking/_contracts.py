"""Contracts for programs without an event loop: blocking proxies, emitters and implementations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ._loop import Portal


def make_proxy(contract: Any, caller: Any, portal: Portal) -> Any:
    raise NotImplementedError


def make_emitter(contract: Any, caller: Any, **options: Any) -> Any:
    raise NotImplementedError


def implement(apply: Callable[..., Any], inner: Any, contract: Any, implementation: object) -> None:
    raise NotImplementedError
