"""Annotations for fields whose concurrent changes merge instead of competing.

To a type checker `Counter` is `int`, `SetOf[str]` is `set[str]`, and so on. All have a default: 0 or empty.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, time
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_args

from pydantic import BaseModel, Field, GetCoreSchemaHandler, WrapSerializer
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, PydanticUndefined

from atoll.schema.references import Deletion, OnDelete

if TYPE_CHECKING:
    from atoll.lattices.base import Lattice

INT_MIN, INT_MAX = -(2**63), 2**63 - 1

Kind = Literal["counter", "bounded_counter", "set", "list", "text", "map"]
Split = Literal["equal", "creator"]
Duplicates = Literal["clear", "manual"]

T = TypeVar("T")
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Mergeable:
    """Marks an annotation as a mergeable field of one kind."""

    kind: Kind


@dataclass(frozen=True, slots=True)
class Bound:
    """Marks a bounded counter, and says how: `stock: Annotated[BoundedCounter, Bound(split="creator")]`.

    No region's value is ever below `minimum`. `split` says who holds new rights: every region an equal part, or the
    creating region all of them.
    """

    minimum: int = 0
    split: Split = "equal"

    @property
    def kind(self) -> Kind:
        return "bounded_counter"

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        # An outer Bound comes later and so replaces the bound that BoundedCounter brings along.
        return {**handler(source), "ge": self.minimum, "le": INT_MAX}


@dataclass(frozen=True, slots=True)
class Unique:
    """Marks a field of which no two documents may have the same value: see `field`."""

    duplicates: Duplicates | None = None


Marker = Mergeable | Bound


def _sorted_elements(value: Any, listed: Callable[[Any], list[Any]]) -> list[Any]:
    """A set has no order of its own; JSON text needs one that does not depend on the process."""
    if not _SPELLED.isdisjoint(map(type, value)):
        value = {one_spelling(element) for element in value}
    return sorted(listed(value), key=_order_of_element)


_SPELLED = frozenset({float, Decimal, datetime, time})
SPELLED = frozenset({"float", "decimal", "datetime", "time"})
"""Types of which equal values may have several JSON texts; the same as pydantic's core calls them."""


def one_spelling(element: Any) -> Any:
    """The same for all elements that are equal, since sets tell elements apart by their JSON text."""
    match element:
        case float():
            return element + 0.0  # zero has no sign
        case Decimal():
            sign, digits, exponent = element.as_tuple()
            if not isinstance(exponent, int) or not element:
                return element if element else Decimal(0)
            kept = "".join(map(str, digits)).rstrip("0")
            return Decimal(f"{'-' * sign}{kept}E{exponent + len(digits) - len(kept)}")
        case datetime() if element.tzinfo is not None:
            try:
                return element.astimezone(UTC)
            except OverflowError:  # in UTC it has no year
                return element
        case time() if element.tzinfo is not None:
            raise ValueError(
                "times of day with a zone may be equal in different spellings; leave out the zone"
            )
        case _:
            return element


def _order_of_element(element: Any) -> tuple[str, Any]:
    if isinstance(element, str | bool):
        return type(element).__name__, element
    if isinstance(element, int | float):
        return "number", element
    return type(element).__name__, json.dumps(element, sort_keys=True)


Counter = Annotated[int, Mergeable("counter"), Field(default=0, ge=INT_MIN, le=INT_MAX)]
"""An integer; concurrent increments and decrements add up."""

BoundedCounter = Annotated[int, Bound(), Field(default=0)]
"""An integer that is never below its bound (0 unless `Bound` says otherwise), in any region or partition."""

SetOf = Annotated[
    set[T],
    Mergeable("set"),
    Field(default=set(), strict=False),
    WrapSerializer(_sorted_elements, return_type=list[Any], when_used="json"),
]
"""A set of single values; of a concurrent addition and removal, the addition stays. A sorted list in JSON."""

ListOf = Annotated[list[T], Mergeable("list"), Field(default=[])]
"""A list; concurrent insertions all stay, each where its writer put it."""

MapOf = Annotated[dict[str, V], Mergeable("map"), Field(default={})]
"""An object whose members are written one by one: a later write of one member leaves the others alone."""

Text = Annotated[str, Mergeable("text"), Field(default="")]
"""A text edited by several people at once; all edits stay."""


def field(
    default: Any = PydanticUndefined,
    *,
    unique: bool = False,
    duplicates: Duplicates | None = None,
    on_delete: OnDelete | None = None,
    **more: Any,
) -> Any:
    """A field with options: `email: str = field(unique=True)`. `more` is what pydantic's `Field` takes.

    `unique`: no two documents of the collection have the same value. None is no value: any number may lack it.
    `duplicates` says what becomes of the later ones where regions wrote some at once. `clear` sets their field to
    None, and is the default where that may be. With `manual` they wait for a person.

    `on_delete` of a reference says what becomes of the deletion of the document that it names. `restrict`, the default:
    it is refused; one that met the reference concurrently is undone. `cascade`: the document that refers is deleted,
    too. `dangling`: the reference stays.
    """
    info = Field(default, **more)
    if unique or duplicates is not None:
        info.metadata.append(Unique(duplicates))
    if on_delete is not None:
        info.metadata.append(Deletion(on_delete))
    return info


def unique_of(info: FieldInfo) -> Unique | None:
    """The mark of a unique field; None for another one."""
    return next((item for item in info.metadata if isinstance(item, Unique)), None)


def is_unique(info: FieldInfo) -> bool:
    return unique_of(info) is not None


def nested_unique(annotation: Any, seen: frozenset[Any] = frozenset()) -> bool:
    """Whether a field within the annotation is marked, where nothing could keep it unique."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel) and annotation not in seen:
        within = seen | {annotation}
        return any(
            is_unique(info) or nested_unique(info.annotation, within)
            for info in annotation.model_fields.values()
        )
    marks = [
        info
        for item in getattr(annotation, "__metadata__", ())
        for info in (item.metadata if isinstance(item, FieldInfo) else [item])
    ]
    return any(isinstance(item, Unique) for item in marks) or any(
        nested_unique(argument, seen)
        for argument in get_args(annotation)
        if not isinstance(argument, str | int | float | bytes | FieldInfo)
    )


def marker_of(info: FieldInfo) -> Marker | None:
    """The mark of a mergeable field; None for a plain one. The outermost of several marks counts."""
    marks = [item for item in info.metadata if isinstance(item, Mergeable | Bound)]
    return marks[-1] if marks else None


def element_type_of(info: FieldInfo) -> Any:
    """What a set, list or map field holds: `T` of `SetOf[T]`, `V` of `MapOf[V]`; `Any` when not given."""
    arguments = get_args(info.annotation)
    return arguments[-1] if arguments and not isinstance(arguments[-1], TypeVar) else Any


def nested_marker(annotation: Any) -> Marker | None:
    """A mark inside the annotation, as in `Counter | None`, where nothing could merge it."""
    return next(_marks_within(annotation), None)


def _marks_within(annotation: Any) -> Iterator[Marker]:
    for argument in get_args(annotation):
        if isinstance(argument, Mergeable | Bound):
            yield argument
        elif not isinstance(argument, str | int | float | bytes):
            yield from _marks_within(argument)


def lattice_of(marker: Marker) -> Lattice[Any] | None:
    """The lattice that merges such a field; None for a map, which the core keeps as a register per member."""
    from atoll.lattices.registry import LATTICES

    if isinstance(marker, Bound):
        return LATTICES[marker.kind](minimum=marker.minimum, split=marker.split)
    return None if marker.kind == "map" else LATTICES[marker.kind]()
