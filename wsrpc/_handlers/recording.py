"""`RecordingRegistry`: the registry of a router."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from .._base.names import RESERVED_EVENTS, ChannelRef
from .layers import Middleware
from .method import DEFAULTS, HandlerOptions
from .registry import Registry


class RecordingRegistry(Registry):
    """The registry of a router: it remembers each registration, to repeat it in the registry that includes the router.

    Functions are introspected when they are recorded, so that mistakes show where they are made. They are introspected
    again when the router is included, with the hooks of that registry. This one accepts any type.
    """

    __slots__ = ("_included", "_recorded")

    def __init__(self, *, lax: bool = False) -> None:
        super().__init__(dec_hook=_any_type, lax=lax)
        self._recorded: list[tuple[str, ChannelRef, tuple[Any, ...], dict[str, Any]]] = []
        self._included = False

    def _record(self, name: str, channel: ChannelRef, *args: Any, **options: Any) -> None:
        """Call the method ``name`` of `Registry`, and remember the call."""
        if self._included:
            raise RuntimeError(
                "this router is included already: register before include(), later handlers would be lost"
            )
        getattr(super(), name)(channel, *args, **options)
        self._recorded.append((name, channel, args, options))

    def order(self, channel: str | int) -> None:
        self._record("order", channel)

    def add(
        self,
        channel: ChannelRef,
        event: str,
        function: Callable[..., Any] | None,
        options: HandlerOptions = DEFAULTS,
        **more: Any,
    ) -> None:
        self._record("add", channel, event, function, options, **more)

    def declare(self, channel: ChannelRef, contract: Any) -> None:
        self._record("declare", channel, contract)

    def use(self, channel: ChannelRef, middleware: Middleware) -> None:
        self._record("use", channel, middleware)

    def include_in(self, registry: Registry, channel: str | None) -> None:
        """Repeat the registrations in ``registry``, those of the main channel on ``channel``.

        Raises:
            ValueError: this has named channels, which cannot be included under a channel.
        """
        named = sorted(repr(name) for name in self.scopes if name is not None)
        if channel is not None and named:
            names = ", ".join(named)
            raise ValueError(f"a router with channels of its own ({names}) cannot be included under a channel")
        self._included = True
        for name, own, args, more in self._recorded:
            at = channel if own is None else own
            if name == "add":
                event, function, options = args
                # A lifecycle event takes no options; under a channel the same name is an ordinary one.
                if options.lax is None and (at is not None or event not in RESERVED_EVENTS):
                    args = (event, function, replace(options, lax=self.lax))
            getattr(registry, name)(at, *args, **more)


def _any_type(_type: type[Any], _value: Any) -> Any:  # pragma: no cover - only its presence matters
    raise NotImplementedError
