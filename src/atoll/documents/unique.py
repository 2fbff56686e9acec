"""Values of unique fields, and who has them in asynchronous collections.

There, each value has a document of the system collection `_holders`. It has a member for each document with the value.
The entry that writes a document writes the member, too. Regions that give one value to different documents at once so
write different members. Once an entry brings both together, every region sees both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Any, Final, NamedTuple

import msgspec

from atoll.documents.document import Document
from atoll.documents.mutation import Delete, Patch, Put
from atoll.documents.raw import raw_members
from atoll.documents.register import Version, canonical_order
from atoll.documents.rules import Rules
from atoll.errors import UniqueViolation

_SHOWN: Final = 200
"""An error shows so many characters of a value."""
_MEMBERS: Final = "holders."
"""Begins the registers of members."""


class Value(NamedTuple):
    """Of a unique field."""

    field: str
    json: bytes


class Held(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a member says: one document has the value."""

    since: str
    """When, and by whom it was taken, in the order of time."""
    value: msgspec.Raw
    manual: bool = False
    """Whether a person decides if others have it, too."""


class Holder(NamedTuple):
    """A document that has the value, in the order in which they took it."""

    since: str
    key: str
    version: Version
    held: Held


_held = msgspec.json.Decoder(Held).decode
_members = msgspec.json.Decoder(dict[str, dict[str, Held]]).decode


def place_of(collection: str, value: Value) -> str:
    """The key of a value's claim, or of the document that says who holds it."""
    return f"{collection}/{value.field}/{blake2b(value.json, digest_size=16).hexdigest()}"


def values_of(rules: Rules, document: bytes | None) -> dict[str, Value]:
    """Field → what a document, as JSON text, has in it. None is no value."""
    if document is None or not rules.schema.unique:
        return {}
    fields = raw_members(document)
    return {
        name: Value(name, msgspec.json.encode(given))
        for name in rules.schema.unique
        if name in fields and (given := msgspec.json.decode(fields[name])) is not None
    }


def values_in(rules: Rules, fields: Mapping[str, Any]) -> dict[str, Value]:
    """The same of the fields of a document, as plain JSON data."""
    return {
        name: Value(name, msgspec.json.encode(fields[name]))
        for name in rules.schema.unique
        if fields.get(name) is not None
    }


def violation(where: tuple[str, str], key: str, value: bytes, holder: str) -> UniqueViolation:
    """`where`: collection and field."""
    collection, field = where
    text = value.decode()
    shown = text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
    plain: Any = msgspec.json.decode(value) if len(text) <= _SHOWN else shown
    return UniqueViolation(
        f"{collection}/{key}: {field} is unique, and {collection}/{holder} has the value {shown} already; give it"
        " another value, or change that document first",
        collection=collection,
        key=key,
        field=field,
        value=plain,
        holder=holder,
    )


def supposed(rules: Rules, before: Mapping[str, Value], mutations: Iterable[object]) -> dict[str, Value]:
    """What a document will have in unique fields, going by the mutations alone."""
    after = dict(before)
    for mutation in mutations:
        if isinstance(mutation, Delete):
            after = {}
        elif isinstance(mutation, Put):
            after = values_in(rules, msgspec.json.decode(mutation.plain))
        elif isinstance(mutation, Patch):
            named = {
                step.field: step.argument for step in mutation.steps if step.field in rules.schema.unique
            }
            kept = {name: value for name, value in after.items() if name not in named}
            after = kept | values_in(rules, named)
    return after


def members_of(shown: bytes | None) -> dict[str, Held]:
    """Document → what is said of it, by the text of a document of `_holders`."""
    return {} if shown is None else _members(shown)["holders"]


def register_of(key: str) -> str:
    """The register that says of a document that it has the value."""
    return _MEMBERS + key


def member_of(held: Held) -> dict[str, Any]:
    """As a patch sets it."""
    found: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(held))
    return found


def holders_in(document: Document) -> list[Holder]:
    """Who has the value, in the state of a document of `_holders`."""
    found = []
    for register, versions in document.registers.items():
        alive = [version for version in versions if version.value is not None]
        if not alive or not register.startswith(_MEMBERS):
            continue
        latest = max(alive, key=canonical_order)
        try:
            held = _held(latest.value or b"")
        except msgspec.DecodeError:
            continue  # no version of Atoll has written it
        found.append(Holder(held.since, register.removeprefix(_MEMBERS), latest, held))
    return sorted(found, key=lambda holder: holder[:2])
