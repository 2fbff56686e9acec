"""`Ref[Account]`: a field that names a document of another collection by its key.

To a type checker it is `str`, and the key is what is stored. That the document exists is checked where the reference is
written. What becomes of a deletion that met it is said by the field: see `fields.field`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, TypeVar, get_args

from pydantic import BaseModel, GetJsonSchemaHandler
from pydantic.fields import FieldInfo

from atoll.errors import DeclarationError
from atoll.lattices.base import Escrowed
from atoll.schema.problems import meant

if TYPE_CHECKING:
    from pydantic_core import CoreSchema
    from typing_extensions import TypeAliasType

    from atoll.schema.compiled import CollectionSchema

OnDelete = Literal["restrict", "cascade", "dangling"]
ON_DELETE = ("restrict", "cascade", "dangling")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Reference:
    """Marks an annotation as a reference."""

    target: Any
    """The class of the collection, or its name."""

    @property
    def name(self) -> str:
        """Of the collection, as far as it is known before all are compiled."""
        return self.target if isinstance(self.target, str) else getattr(self.target, "__atoll_name__", "")

    def __get_pydantic_json_schema__(
        self, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {**handler(core_schema), "x-reference": self.name}


@dataclass(frozen=True, slots=True)
class Deletion:
    """Marks a field with what becomes of deletions: see `fields.field`."""

    on_delete: str


if TYPE_CHECKING:
    Ref = TypeAliasType("Ref", str, type_params=(T,))
else:

    class Ref:
        """The key of a document of another collection: `owner: Ref[Account]`, or `Ref[Account] | None`.

        A collection that is declared later, or the class itself, is named: `parent: Ref["Folder"] | None = None`.
        """

        def __class_getitem__(cls, target):
            return Annotated[str, Reference(target)]


class Referring(NamedTuple):
    """A field that refers, of a compiled collection."""

    field: str
    target: str
    """The collection that it refers to."""
    on_delete: OnDelete


class Referrer(NamedTuple):
    """The same, seen from the collection that is referred to."""

    collection: str
    field: str
    on_delete: OnDelete


def reference_of(info: FieldInfo) -> Reference | None:
    """The mark of a field that refers, or may be None; None for another field."""
    found = [item for item in info.metadata if isinstance(item, Reference)]
    options = [each for each in get_args(info.annotation) if each is not NoneType]
    if not found and len(options) == 1 and NoneType in get_args(info.annotation):
        found = [item for item in getattr(options[0], "__metadata__", ()) if isinstance(item, Reference)]
    return found[-1] if found else None


def check_reference(where: str, info: FieldInfo) -> None:
    """Raise DeclarationError for a reference, or what becomes of deletions, that a field cannot have."""
    reference, deletion = reference_of(info), deletion_of(info)
    if reference is None:
        if deletion is not None:
            raise DeclarationError(
                f"{where}: on_delete={deletion.on_delete!r} says what becomes of a reference, and the field is none;"
                " declare it as Ref[…], or drop on_delete"
            )
        if next(_within(info.annotation), None) is not None:
            raise DeclarationError(
                f"{where}: a reference inside another type is not checked; make `Ref[…]` or `Ref[…] | None` the whole"
                " type of a field of the document itself, or declare the keys inside as str"
            )
        return
    if not isinstance(reference.target, str) and not hasattr(reference.target, "__atoll_name__"):
        raise DeclarationError(
            f"{where}: Ref[{reference.target!r}] names no collection; write Ref[Account] with a Collection class, or"
            ' its name, as in Ref["Account"]'
        )
    if deletion is not None and deletion.on_delete not in ON_DELETE:
        raise DeclarationError(
            f'{where}: on_delete={deletion.on_delete!r} is unknown; use "restrict", "cascade" or "dangling"'
        )


def deletion_of(info: FieldInfo) -> Deletion | None:
    return next((item for item in info.metadata if isinstance(item, Deletion)), None)


def _within(annotation: Any, seen: frozenset[Any] = frozenset()) -> Iterator[Reference]:
    """The references inside a type, and in the fields of models in it."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel) and annotation not in seen:
        for info in annotation.model_fields.values():
            if (found := reference_of(info)) is not None:
                yield found
            yield from _within(info.annotation, seen | {annotation})
    for argument in get_args(annotation):
        if isinstance(argument, Reference):
            yield argument
        elif not isinstance(argument, str | int | float | bytes):
            yield from _within(argument, seen)


def referring(where: str, field: str, info: FieldInfo) -> Referring | None:
    """The field as it is compiled; its target is as it was written until all collections are known."""
    reference = reference_of(info)
    if reference is None:
        return None
    deletion = deletion_of(info)
    target: str = reference.target if isinstance(reference.target, str) else reference.target.__atoll_name__
    if not target:
        raise DeclarationError(
            f"{where}.{field}: {reference.target.__name__} is only a base class; refer to one that inherits from it"
        )
    return Referring(field, target, deletion.on_delete if deletion else "restrict")  # type: ignore[arg-type]


def resolved(schemas: Mapping[str, CollectionSchema]) -> dict[str, tuple[Referring, ...]]:
    """collection → its references, each with the name of its target. Raises DeclarationError where one has no sense."""
    by_class = {schema.model.__name__: name for name, schema in schemas.items()}
    found: dict[str, tuple[Referring, ...]] = {}
    for name, schema in schemas.items():
        references = []
        for each in schema.references:
            where = f"{schema.model.__name__}.{each.field}"
            target = each.target if each.target in schemas else by_class.get(each.target)
            if target is None:
                raise DeclarationError(
                    f"{where}: refers to {each.target!r}, which is not among the collections;"
                    f" {meant(each.target, [*by_class, *schemas])}, and list its class, too"
                )
            references.append(each._replace(target=target))
            _check_pair(where, schema, each.on_delete, schemas[target])
        if references:
            found[name] = tuple(references)
    _check_chains(found, schemas)
    return found


def referrers_in(references: Mapping[str, tuple[Referring, ...]]) -> dict[str, tuple[Referrer, ...]]:
    """collection → what refers to it, of all collections that refer or are referred to."""
    found: dict[str, list[Referrer]] = {name: [] for name in references}
    for name, each in references.items():
        for field, target, on_delete in each:
            found.setdefault(target, []).append(Referrer(name, field, on_delete))
    return {name: tuple(referrers) for name, referrers in found.items()}


def _check_pair(where: str, schema: CollectionSchema, on_delete: OnDelete, target: CollectionSchema) -> None:
    one, other = schema.model.__name__, target.model.__name__
    for each in (schema, target):
        if each.policy.writes_when_cut_off:
            raise DeclarationError(
                f'{where}: {each.model.__name__} takes writes without a majority (fallback="eventual"), so nobody could'
                " check the reference then; choose another fallback, or declare the key as str"
            )
    if schema.policy.by_quorum and not target.policy.by_quorum:
        raise DeclarationError(
            f"{where}: {one} is decided by a majority, and {other} is not, so a transaction cannot hold it; make"
            f' {other} strong without placement and escrow, or {one} another consistency than "strong"'
        )
    if target.policy.by_quorum and not schema.policy.by_quorum:
        raise DeclarationError(
            f"{where}: {other} is decided by a majority, and {one} is written without one, so a deletion could not be"
            f' undone; make {one} strong, too, or {other} another consistency than "strong"'
        )
    bounded = any(isinstance(lattice, Escrowed) for lattice in target.lattices.values())
    if on_delete == "restrict" and bounded and not schema.policy.by_quorum:
        raise DeclarationError(
            f"{where}: what others take from a bounded counter of {other} while it is deleted would come back when the"
            ' deletion is undone; use on_delete="cascade" or "dangling"'
        )


def _check_chains(
    references: Mapping[str, tuple[Referring, ...]], schemas: Mapping[str, CollectionSchema]
) -> None:
    """Raise DeclarationError where a deletion would go on to what must not be deleted, or in a circle."""
    goes_on = {
        name: {each.target: each.field for each in found if each.on_delete == "cascade"}
        for name, found in references.items()
    }
    for name, found in references.items():
        for each in found:
            onward = goes_on.get(each.target, {})
            if each.on_delete == "restrict" and onward and not schemas[name].policy.by_quorum:
                field = next(iter(onward.values()))
                middle = schemas[each.target].model.__name__
                raise DeclarationError(
                    f'{schemas[name].model.__name__}.{each.field}: on_delete="restrict" keeps {middle}, which'
                    f' {middle}.{field} with on_delete="cascade" deletes; use "cascade" or "dangling" here, or another'
                    " policy there"
                )
    for name in goes_on:
        circle = _circle(goes_on, name)
        if circle:
            path = " → ".join(schemas[each].model.__name__ for each in circle)
            raise DeclarationError(
                f'{schemas[name].model.__name__}.{goes_on[name][circle[1]]}: on_delete="cascade" goes in a circle'
                f' ({path}), so one deletion could delete nearly everything; make one of them "restrict" or "dangling"'
            )


def _circle(goes_on: Mapping[str, Mapping[str, str]], start: str) -> list[str]:
    """From a collection along cascades back to itself, over others; empty for none. Trees refer to themselves."""
    paths, seen = [[start]], {start}
    while paths:
        path = paths.pop()
        for target in goes_on.get(path[-1], {}):
            if target == start and len(path) > 1:
                return [*path, start]
            if target not in seen:
                seen.add(target)
                paths.append([*path, target])
    return []
