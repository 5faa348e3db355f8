"""`PeerState`, the application's own data of a peer, and `Key`, the typed name of an entry."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, Never, TypeAlias, TypeVar, overload

T = TypeVar("T")

Value: TypeAlias = T | Callable[[T], Never]
"""The value of a `Key[T]`, as the type of a parameter.

mypy reads an argument whose type mentions a function after the others. So the key decides what a value such as
``defaultdict(list)`` holds. No value is a function of this type.
"""


class Key(Generic[T]):
    """Typed name of an entry in `Peer.state`.

    After ``USER = Key[User]("user")``, type checkers know that ``peer.state[USER]`` is a ``User``. A key is equal to
    its name, so ``peer.state["user"]`` is the same entry. Types are not checked at run time.

    Raises:
        TypeError: the name is not a string.
    """

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        value: Any = name
        if not isinstance(value, str):
            raise TypeError(f"Key() takes a name, as text, got {value!r}")
        self.name = name
        """The name of the entry."""

    # A dict finds the entry of a key under the key's name.

    def __hash__(self) -> int:
        return hash(self.name)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Key):
            return self.name == other.name
        return self.name == other

    def __repr__(self) -> str:
        return f"Key({self.name!r})"


class PeerState(dict[str, Any]):
    """Dict in which an application keeps data about a peer. Keys are strings, or `Key` objects for typed entries."""

    __slots__ = ()

    # Lookups by a Key need no code, since it equals its name. Entries are stored under the name.

    def _keep(self, key: Key[Any] | str, value: Any) -> None:
        super().__setitem__(key.name if isinstance(key, Key) else key, value)

    def _default(self, key: Key[Any] | str, default: Any = None) -> Any:
        return super().setdefault(key.name if isinstance(key, Key) else key, default)

    def _keep_all(self, *args: Any, **kwargs: Any) -> None:
        for key, value in dict(*args, **kwargs).items():
            self._keep(key, value)

    if TYPE_CHECKING:
        # The overloads of dict for a default of another type become Any here.

        @overload
        def __getitem__(self, key: Key[T], /) -> T: ...
        @overload
        def __getitem__(self, key: str, /) -> Any: ...
        def __getitem__(self, key: Any, /) -> Any: ...

        @overload
        def __setitem__(self, key: Key[T], value: Value[T], /) -> None: ...
        @overload
        def __setitem__(self, key: str, value: Any, /) -> None: ...
        def __setitem__(self, key: Any, value: Any, /) -> None: ...

        @overload
        def get(self, key: Key[T], default: None = None, /) -> T | None: ...
        @overload
        def get(self, key: Key[T], default: Value[T], /) -> T: ...
        @overload
        def get(self, key: str, default: Any = None, /) -> Any: ...
        def get(self, key: Any, default: Any = None, /) -> Any: ...  # pyright: ignore[reportIncompatibleMethodOverride]

        @overload
        def setdefault(self, key: Key[T], default: Value[T], /) -> T: ...
        @overload
        def setdefault(self, key: str, default: Any = None, /) -> Any: ...
        def setdefault(self, key: Any, default: Any = None, /) -> Any: ...  # pyright: ignore[reportIncompatibleMethodOverride]

        @overload
        def pop(self, key: Key[T], /) -> T: ...
        @overload
        def pop(self, key: Key[T], default: Value[T], /) -> T: ...
        @overload
        def pop(self, key: str, default: Any = ..., /) -> Any: ...
        def pop(self, key: Any, default: Any = None, /) -> Any: ...  # pyright: ignore[reportIncompatibleMethodOverride]

        def __delitem__(self, key: Key[Any] | str, /) -> None: ...

    else:
        __setitem__ = _keep
        setdefault = _default
        update = _keep_all
