"""What the core needs to know of a collection, worked out once from its declaration."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from types import new_class
from typing import TYPE_CHECKING, Any

import msgspec

from atoll.documents import strategies
from atoll.documents.register import Register
from atoll.documents.strategies import Fold, Resolver
from atoll.lattices.base import Lattice
from atoll.schema.collection import Collection
from atoll.schema.compiled import compile_collection
from atoll.schema.system import APPENDED, DANGLING, DELETED, HOLDERS, RANKED, RECORDS

if TYPE_CHECKING:
    from atoll.schema.application import CollectionSchema

WHOLE = ""
"""The register of the whole document; under `merge`, of its presence only."""
TOUCH = "~"
"""The register that operations on mergeable and map fields write, so that a concurrent deletion is noticed.

Each life of a document has one, see `in_life`."""

PURGED = "~~"
"""The register that says what of the document went for good, see `documents.purging`."""
_LIFE_DIGITS = 9

Strategy = Callable[[Register], Fold]

_WHOLE_DOCUMENT: dict[str, Strategy] = {
    "lww": strategies.last_write_wins,
    "fww": strategies.first_write_wins,
    "merge": strategies.update_wins,
    "manual": strategies.manual,
}


class Rules:
    """How documents of one collection are kept apart, folded and named in the audit."""

    def __init__(self, schema: CollectionSchema, resolver: Resolver | None = None) -> None:
        self.schema = schema
        self.name: str = schema.name
        self.per_field: bool = schema.policy.resolve == "merge"
        self.lattices: dict[str, Lattice[Any]] = dict(schema.lattices)
        self.maps: frozenset[str] = frozenset(schema.maps)
        self.plain: tuple[str, ...] = schema.plain
        self.known: frozenset[str] = frozenset(schema.fields)
        """All fields but the key. A stored document may have more: another version's."""
        self.simple: bool = not (self.per_field or self.lattices or self.maps)
        """A document is one register and nothing else."""
        self.appended: bool = schema.name in APPENDED
        """Documents are written once, and the key of each is its place among all."""
        self.holders: bool = schema.name == HOLDERS
        """Documents say who has a value of a unique field: see `documents.unique`."""
        self.dangling: bool = schema.name == DANGLING
        """Documents say what refers to what was deleted: see `documents.references`."""
        self.records: bool = schema.name in RECORDS
        """Documents say what conflicts there are between others."""
        self.unrecorded: bool = schema.name == DELETED
        """Nobody misses what a document loses in a conflict."""
        self.quick: bool = self.simple and not (self.appended or self.records)
        """A write of a whole document may take the short way."""
        self.touched: bool = bool(self.lattices or self.maps)
        self._ranked: bool = schema.name in RANKED
        self._whole: Strategy
        if self._ranked:
            self._whole = strategies.highest_rank
        elif resolver is not None:
            self._whole = partial(strategies.custom, resolver=resolver)
        else:
            self._whole = _WHOLE_DOCUMENT[schema.policy.resolve]

    def strategy(self, register: str) -> Strategy:
        if register == WHOLE:
            return self._whole
        if is_touch(register):
            return strategies.delete_wins
        if self.is_member(register):
            return strategies.update_wins
        return strategies.deep_merge

    def strategy_name(self, register: str) -> str:
        """As the audit says it."""
        if register == WHOLE:
            return (
                "update_wins" if self.per_field else "ranked" if self._ranked else self.schema.policy.resolve
            )
        if is_touch(register):
            return "delete_wins"
        return "update_wins" if self.is_member(register) else "merge"

    def lattice(self, name: str) -> Lattice[Any] | None:
        """Of the state with this name, in whichever life of the document; None where the field is not declared here."""
        return self.lattices.get(name.partition(TOUCH)[0])

    @staticmethod
    def is_member(register: str) -> bool:
        """Whether the register is one member of a map field (`field.member`), be the map declared here or not."""
        return "." in register


@lru_cache
def undeclared(name: str) -> Rules:
    """For documents of a collection that is not declared here: each field is one of another version.

    Raises DeclarationError for a name that no collection may have.
    """
    model = new_class("Undeclared", (Collection,), {"name": name, "system": name.startswith("_")})
    return Rules(compile_collection(model))


def in_life(field: str, life: int) -> str:
    """The name of a mergeable field, a map or the touch register in a life of its document.

    A document that is created anew after its deletion begins a new life, counted from 0. States and members of a former
    one keep their names. So nothing of them is in the new one, and what comes late for them finds its place.
    """
    if field == TOUCH:
        return TOUCH if life == 0 else f"{TOUCH}{life}"
    return field if life == 0 else f"{field}{TOUCH}{life}"


def field_of(register: str) -> str:
    """What the audit names: the register without its life; empty for the whole document, and for operations on it."""
    if TOUCH not in register:
        return register
    name, dot, member = register.partition(".")
    return f"{name.partition(TOUCH)[0]}{dot}{member}"


def is_touch(register: str) -> bool:
    """Whether it is the touch register of any life."""
    return register[:1] == TOUCH and register != PURGED


def well_named(register: str) -> bool:
    """Whether any version of the declarations may have this register, or a state of this name.

    A register is merged also if its field is unknown. So nothing is lost while regions differ in their
    declarations, and all regions keep the same state.
    """
    if register == PURGED:
        return True
    field, mark, life = register.partition(".")[0].partition(TOUCH)
    if (
        mark
        and life
        and not (life.isascii() and life.isdigit() and life[0] != "0" and len(life) <= _LIFE_DIGITS)
    ):
        return False
    if not field:
        return register in (WHOLE, TOUCH) or (bool(mark and life) and "." not in register)
    return field.isidentifier() and bool(life or not mark)


def plain_text(schema: CollectionSchema, document: Any) -> bytes:
    """The plain fields of a whole document, checked, as canonical JSON. Raises RequestErrors, TypeError."""
    fields = schema.parse_object(document)
    return msgspec.json.encode({name: fields[name] for name in schema.plain})
