"""What a request asks for, checked against the schema before it reaches the commit group commit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import msgspec

from atoll.causality.origin import Origin
from atoll.causality.types import Dot, Seq, Stamp
from atoll.documents.entry import Change
from atoll.documents.raw import raw_members
from atoll.documents.rules import Rules
from atoll.documents.trace import Trace
from atoll.errors import InvalidOperation
from atoll.lattices.json_values import check_value
from atoll.lattices.registry import LATTICES
from atoll.schema.problems import unknown_field

ANY_VERSION = "*"
"""`if_match` of a write that needs the document to exist."""


class Put(msgspec.Struct, frozen=True, array_like=True, tag="put"):
    """The whole document as it should be."""

    collection: str
    key: str
    plain: bytes
    """The plain fields as canonical JSON."""
    fields: dict[str, Any] | None = None
    """Every field's plain value, where the collection has more than one register; else None."""
    if_match: str | None = None
    """A version that has to be there; `*` for any; several with `, ` in between."""
    if_absent: bool = False


class Step(NamedTuple):
    """One operator on one field."""

    operator: str
    field: str
    member: str | None
    """The name in a map field, as in `$set: {"labels.colour": "red"}`."""
    argument: Any


class Patch(msgspec.Struct, frozen=True, array_like=True, tag="patch"):
    """Operators on some fields."""

    collection: str
    key: str
    steps: tuple[Step, ...]
    if_match: str | None = None


class Delete(msgspec.Struct, frozen=True, array_like=True, tag="delete"):
    collection: str
    key: str
    if_match: str | None = None


class Transfer(msgspec.Struct, frozen=True, array_like=True, tag="transfer"):
    """Hand rights of a bounded counter to another region."""

    collection: str
    key: str
    field: str
    target: str
    wanted: int
    """At least this much is asked for; the whole spare half is given where it is more."""
    ahead: bool = False
    """Nobody waits for it: just as much is given, by the demand that was measured."""


class Check(msgspec.Struct, frozen=True, array_like=True, tag="check"):
    """Change nothing; a transaction that reads a document requires by it that the document is still the same."""

    collection: str
    key: str
    if_match: str | None = None
    if_absent: bool = False


Mutation = Put | Patch | Delete | Transfer | Check


class Write(msgspec.Struct, frozen=True, array_like=True):
    """Mutations that become one entry: all or none."""

    mutations: tuple[Mutation, ...]
    idempotency_key: str | None = None
    trace: Trace | None = None
    brief: bool = False
    """The caller does not need the resulting documents. Those of several writes are then not returned or kept."""
    added: int = 0
    """So many of the last mutations were not asked for: they follow from the others, and from what there was."""
    restores: bool = False
    """It undoes a deletion. What the document referred to may be gone, too; that is then found out as ever."""

    @property
    def asked(self) -> tuple[Mutation, ...]:
        return self.mutations[: len(self.mutations) - self.added] if self.added else self.mutations

    def with_more(self, mutations: Iterable[Mutation]) -> Write:
        """Also these, which follow from the others."""
        more = tuple(mutations)
        return msgspec.structs.replace(self, mutations=(*self.mutations, *more), added=self.added + len(more))


class Written(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What one mutation came to."""

    collection: str
    key: str
    value: bytes | None
    """The visible document as JSON text afterwards; None after a deletion."""
    version: str


class Receipt(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """The answer to a write, remembered under its idempotency key."""

    origin: Origin
    seq: Seq
    """Its place in the region's journal; 0 when nothing had to change."""
    stamp: Stamp
    written: tuple[Written, ...]
    fingerprint: bytes = b""
    """Of the write, in what is remembered: a key that comes back with another write is refused."""
    replayed: bool = False
    degraded: str | None = None
    """Which fallback was taken; None where the write is what the collection's policy promises."""

    @property
    def dot(self) -> Dot:
        return Dot(self.origin, self.seq)


def fields_of(mutation: Mutation) -> frozenset[str]:
    """The fields that a mutation names."""
    match mutation:
        case Put():
            return frozenset(mutation.fields or raw_members(mutation.plain))
        case Patch():
            return frozenset(step.field for step in mutation.steps)
        case Transfer():
            return frozenset({mutation.field})
        case Delete() | Check():
            return frozenset()


_ELEMENT_BYTES = 256
"""What an element of a value weighs: Python touches it several times, and plain bytes only a library in C."""
MERGED_BYTES = 64
"""What a byte of a mergeable field's state weighs."""
DOCUMENT_BYTES = 1 << 10
"""What a document weighs, small as it may be."""
MERGED_DOCUMENT_BYTES = 16 << 10
"""What a document of several parts weighs, small as it may be."""
_REGISTER_BYTES = 1 << 10
"""What one part of it weighs."""


def weight_of(mutation: Mutation) -> int:
    """About how long it will be worked on, in bytes of a plain document that take as long."""
    match mutation:
        case Put():
            return len(mutation.plain) + (_weight(mutation.fields.values()) if mutation.fields else 0)
        case Patch():
            return _weight(step.argument for step in mutation.steps)
        case Transfer() | Delete() | Check():
            return 0


def weight_of_parts(change: Change) -> int:
    """The same of the parts of a document in a peer's entry."""
    return len(change.registers) * _REGISTER_BYTES + sum(map(len, change.deltas.values())) * MERGED_BYTES


def _weight(values: Iterable[Any]) -> int:
    return sum(len(value) * _ELEMENT_BYTES for value in values if isinstance(value, list | dict | str))


OPERATORS = frozenset({"$set", "$unset"}).union(*(lattice().operators for lattice in LATTICES.values()))
MAX_STEPS = 1000
"""More operations than this in one patch are refused."""


def put_of(
    rules: Rules, key: str, body: bytes, *, if_match: str | None = None, if_absent: bool = False
) -> Put:
    """Validate a document's JSON text. Raises the RequestErrors of `CollectionSchema.parse`."""
    if rules.simple:
        return Put(rules.name, key, rules.schema.canonical(body, key), None, if_match, if_absent)
    return put_fields(rules, key, rules.schema.parse(body, key), if_match=if_match, if_absent=if_absent)


def put_fields(
    rules: Rules, key: str, fields: Mapping[str, Any], *, if_match: str | None = None, if_absent: bool = False
) -> Put:
    """A put of already validated fields."""
    plain = msgspec.json.encode({name: fields[name] for name in rules.plain if name in fields})
    return Put(rules.name, key, plain, None if rules.simple else dict(fields), if_match, if_absent)


def patch_of(rules: Rules, key: str, operators: Any, *, if_match: str | None = None) -> Patch:
    """Validate a patch such as `{"$set": {"name": "Ann"}, "$inc": {"views": 1}}`.

    Raises InvalidOperation, UnknownField, InvalidDocument.
    """
    if not isinstance(operators, dict) or not operators:
        raise InvalidOperation(
            'a patch is a JSON object of operators, such as {"$set": {"name": "Ann"}}; to replace the document use PUT'
        )
    steps: list[Step] = []
    if unknown := operators.keys() - OPERATORS:
        raise InvalidOperation(
            f"there is no operator {min(unknown)[:64]!r}; there are {', '.join(sorted(OPERATORS))}"
        )
    for operator, given in operators.items():
        arguments = given
        if operator == "$unset":
            if not isinstance(arguments, list) or not all(isinstance(name, str) for name in arguments):
                raise InvalidOperation('$unset takes a list of field names, such as {"$unset": ["nickname"]}')
            arguments = dict.fromkeys(arguments)
        elif not isinstance(arguments, dict):
            raise InvalidOperation(
                f'{operator} takes an object of fields, such as {{"{operator}": {{"field": …}}}}'
            )
        for path, argument in arguments.items():
            steps.append(_step(rules, operator, path, argument))
    if not steps or len(steps) > MAX_STEPS:
        raise InvalidOperation(f"a patch holds 1 to {MAX_STEPS} operations, this one {len(steps)}")
    return Patch(rules.name, key, tuple(steps), if_match)


def _step(rules: Rules, operator: str, path: str, argument: Any) -> Step:
    name, dot, member = path.partition(".")
    schema = rules.schema
    if name in rules.maps:
        if operator not in ("$set", "$unset"):
            raise InvalidOperation(f"{operator} does not fit {rules.name}.{name}, a map; use $set or $unset")
        if dot:
            if operator == "$set":
                argument = schema.validate_map_value(name, argument)
            return Step(operator, name, member, argument)
        if operator == "$unset":
            argument = {}
        elif not isinstance(argument, dict):
            raise InvalidOperation(
                f"$set of the map {rules.name}.{name} takes an object, not {type(argument).__name__}"
            )
        return Step("$set", name, None, schema.validate_map(name, argument))
    if dot:
        if name in rules.plain or name in rules.lattices:
            raise InvalidOperation(
                f"{path!r}: only map fields have members; {rules.name}.{name} is set as a whole"
            )
        raise unknown_field(name, rules.name, schema.fields)
    if name in rules.plain:
        if operator == "$set":
            return Step(operator, name, None, schema.validate_field(name, argument))
        if operator == "$unset":
            return Step("$set", name, None, schema.default_of(name))
        raise InvalidOperation(
            f"{operator} does not fit {rules.name}.{name}, a plain field; use $set, or declare it as a "
            "Counter, SetOf, ListOf or Text"
        )
    lattice = rules.lattices.get(name)
    if lattice is None:
        raise unknown_field(name, rules.name, schema.fields)
    if operator == "$unset":
        return Step("$set", name, None, schema.default_of(name))
    if operator == "$set":
        return Step(operator, name, None, schema.validate_field(name, argument))
    if operator not in lattice.operators:
        takes = ", ".join(sorted(lattice.operators | {"$set", "$unset"}))
        raise InvalidOperation(
            f"{operator} does not fit {rules.name}.{name}, a {lattice.kind}; it takes {takes}"
        )
    if lattice.kind in ("set", "list"):
        argument = _elements(rules, name, operator, argument)
    if not isinstance(argument, list):
        # Before it is packed for another region, or compared with an earlier write of its idempotency key.
        check_value(argument, operator)
    return Step(operator, name, None, argument)


def _elements(rules: Rules, name: str, operator: str, argument: Any) -> Any:
    validate = rules.schema.validate_elements
    if operator in ("$add", "$remove") and isinstance(argument, list):
        return validate(name, argument)
    if operator == "$splice" and isinstance(argument, dict) and isinstance(argument.get("insert"), list):
        return {**argument, "insert": validate(name, argument["insert"])}
    return argument
