"""`Decider`: asks a user's function whether a peer may do something."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from .._base.misuse import check_has_run, check_no_yield
from .._core.api.peer import Peer, core_of
from .._core.handlers.accepted import accepted
from .._core.handlers.lifecycle import ends_the_task

NOT_ALLOWED = "not allowed"

Allow = Callable[[Peer], bool | Awaitable[bool]]
"""A user's function that decides whether a peer may do something."""


class Decider:
    """A user's function, sync or async, that allows or refuses something. Only True allows it.

    ``option`` is the name of the option or decorator with which the user passed the function. ``names`` are the names
    of its arguments. The first argument is a peer.

    Raises:
        TypeError: the function has other arguments, or a ``yield``.
    """

    def __init__(self, option: str, names: tuple[str, ...], function: Callable[..., Any]) -> None:
        check_decider(option, names, function)
        self.function = function
        self._option = option
        self._warned = False

    async def allows(self, what: str, peer: Peer, *args: object) -> bool:
        """Return the decision of the function. If the function fails, the log says that ``what`` was refused."""
        log = core_of(peer).log
        try:
            decision = self.function(peer, *args)
            if inspect.isawaitable(decision):
                decision = await decision
            check_has_run(self._option, decision)
        except BaseException as exc:
            if ends_the_task(exc):
                raise
            log(logging.WARNING, "refused to %s, because %s failed", what, self._option, exc_info=exc)
            return False
        if not isinstance(decision, bool) and not self._warned:
            self._warned = True
            text = "refused to %s, because %s returned %s, which is only logged once: return True or False"
            log(logging.WARNING, text, what, self._option, None if decision is None else type(decision).__name__)
        return decision is True


def check_decider(option: str, names: tuple[str, ...], function: Any) -> None:
    """Check that a user's function has the arguments ``names``. ``option`` names the function in the error message.

    Raises:
        TypeError: the function has other arguments, or a ``yield``.
    """
    check_no_yield(option, function)
    with suppress(TypeError):
        if accepted(option, names, function) == len(names):
            return
    raise TypeError(f"{option} takes a function that is called with ({', '.join(names)}), got {function!r}")
