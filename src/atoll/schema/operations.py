"""Updates that a client asks for by name, so that concurrent ones add up.

Such as `update(Inventory, key, stock=Decrement(2))`. Each has `operator` and
`argument`: its form in the body of a PATCH, `{operator: {field: argument}}`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from atoll.errors import InvalidOperation


@dataclass(frozen=True, slots=True)
class Increment:
    """Add `n` to a counter or bounded counter."""

    n: int = 1
    operator: ClassVar[str] = "$inc"

    def __post_init__(self) -> None:
        _check_whole(self.n, "Increment")

    @property
    def argument(self) -> int:
        return self.n


@dataclass(frozen=True, slots=True)
class Decrement:
    """Take `n` from a counter; a bounded counter refuses what would go below its bound."""

    n: int = 1
    operator: ClassVar[str] = "$inc"

    def __post_init__(self) -> None:
        _check_whole(self.n, "Decrement")

    @property
    def argument(self) -> int:
        return -self.n


@dataclass(frozen=True, init=False)
class _Elements:
    items: tuple[Any, ...]

    def __init__(self, *items: Any) -> None:
        object.__setattr__(self, "items", items)

    @property
    def argument(self) -> list[Any]:
        return list(self.items)


class Add(_Elements):
    """Add elements to a set, or append them to a list."""

    operator: ClassVar[str] = "$add"


class Remove(_Elements):
    """Remove elements from a set; from a list, the first occurrence of each."""

    operator: ClassVar[str] = "$remove"


@dataclass(frozen=True, slots=True)
class Append:
    """Write at the end of a text."""

    text: str
    operator: ClassVar[str] = "$append"

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise InvalidOperation(f"Append takes a string, not {type(self.text).__name__}")

    @property
    def argument(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Splice:
    """At position `at` of a text or list, take `remove` characters or elements out and put `insert` in.

    Positions count Unicode code points, as Python's own strings do.
    """

    at: int
    remove: int = 0
    insert: str | list[Any] = ""
    operator: ClassVar[str] = "$splice"

    def __post_init__(self) -> None:
        _check_whole(self.at, "Splice.at", minimum=0)
        _check_whole(self.remove, "Splice.remove", minimum=0)

    @property
    def argument(self) -> dict[str, Any]:
        return {"at": self.at, "remove": self.remove, "insert": self.insert}


Operation = Increment | Decrement | Add | Remove | Append | Splice


def _check_whole(value: Any, name: str, minimum: int | None = None) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidOperation(f"{name} takes an integer, not {value!r}")
    if minimum is not None and value < minimum:
        raise InvalidOperation(f"{name} must be at least {minimum}, not {value}")
