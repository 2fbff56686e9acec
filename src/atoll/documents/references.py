"""References between documents, and what an asynchronous collection says of those to what was deleted.

Each region checks references where they are written. A deletion in another region may have met one all the same. Every
region finds that out from its own documents. It says so in the system collection `_dangling`, with a document for each
reference. So the record of the conflict is the same in every region.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from hashlib import blake2b
from typing import Annotated, Any, Final

import msgspec

from atoll.causality.origin import Origin
from atoll.causality.types import Seq, Stamp
from atoll.causality.vector import covers
from atoll.documents.mutation import Delete, Patch, Put
from atoll.documents.raw import raw_members
from atoll.documents.register import Operation, Version
from atoll.documents.rules import Rules
from atoll.errors import ReferenceViolation
from atoll.schema.references import Referrer, Referring

Address = tuple[str, str]
"""Collection and key."""
_SHOWN: Final = 200
"""An error shows so many characters of a key."""
_Number = Annotated[int, msgspec.Meta(ge=0, lt=1 << 53)]
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]


class Wrote(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The write of a reference, or a deletion."""

    region: _Name
    seq: Annotated[int, msgspec.Meta(ge=1, lt=1 << 53)]
    stamp: Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
    uncertainty_ms: _Number
    operation: Annotated[int, msgspec.Meta(ge=0, le=2)]
    context: dict[str, _Number]

    @property
    def version(self) -> Version:
        return Version(
            Origin(self.region),
            Seq(self.seq),
            Stamp(self.stamp),
            self.uncertainty_ms,
            self.operation,
            self.context,
            None,
        )


class Met(msgspec.Struct, frozen=True):
    """What `_dangling` says of a reference."""

    collection: _Name
    key_of: _Name
    """The document that refers."""
    field: _Name
    target: tuple[_Name, _Name]
    """Collection and key of what was deleted."""
    on_delete: str
    reference: Wrote
    deletion: Wrote | None
    """None where nothing says that the document ever was."""
    reason: str = ""
    """Why a person has to decide."""


_met = msgspec.json.Decoder(Met).decode


def met_of(value: bytes) -> Met:
    """Raises msgspec.DecodeError, UnicodeDecodeError."""
    return _met(value)


def text_of(met: Met) -> bytes:
    """As `_dangling` holds it."""
    return msgspec.json.encode(met)


def wrote(version: Version) -> Wrote:
    return Wrote(
        version.origin,
        version.seq,
        version.stamp,
        version.uncertainty_ms,
        int(version.operation),
        dict(version.context),
    )


def met_at_once(reference: Version, deletion: Version) -> bool:
    """Whether neither writer had seen the other's write."""
    return not covers(deletion.context, reference.origin, reference.seq) and (
        not covers(reference.context, deletion.origin, deletion.seq)
    )


def place_of(collection: str, field: str, key: str) -> str:
    """The key of the document that says of a reference that it dangles."""
    return f"{collection}/{field}/{_digest(key)}"


def kept_at(target: Address) -> str:
    """The key under which `_deleted` has a document; also the name of what counts references to it."""
    return f"{target[0]}/{_digest(target[1])}"


def _digest(key: str) -> str:
    return blake2b(key.encode(), digest_size=16).hexdigest()


def targets_of(rules: Rules, document: bytes | None) -> dict[Referring, Address]:
    """What a document, as JSON text, refers to. None refers to nothing."""
    if document is None or not rules.schema.references:
        return {}
    members = raw_members(document)
    named = {each.field for each in rules.schema.references} & members.keys()
    return targets_in(rules, {name: msgspec.json.decode(members[name]) for name in named})


def targets_in(rules: Rules, fields: Mapping[str, Any]) -> dict[Referring, Address]:
    """The same of the fields of a document, as plain JSON data."""
    return {
        each: (each.target, fields[each.field])
        for each in rules.schema.references
        if isinstance(fields.get(each.field), str)
    }


def may_refer(rules: Rules, mutation: object) -> bool:
    """Whether it may make the document refer to something else.

    A patch that does not name such a field does not, unless it creates the document, with a default that refers.
    """
    if not rules.schema.references or not isinstance(mutation, Put | Patch):
        return False
    if isinstance(mutation, Put) or rules.schema.has_rules:
        return True
    named = {step.field for step in mutation.steps}
    return any(each.field in named or not _empty_by_default(rules, each) for each in rules.schema.references)


def _empty_by_default(rules: Rules, each: Referring) -> bool:
    info = rules.schema.model.model_fields[each.field]
    return info.is_required() or (info.default_factory is None and info.default is None)


def may_delete(rules: Rules, mutation: object) -> bool:
    """Whether it may delete what others refer to."""
    return bool(rules.schema.referrers) and isinstance(mutation, Delete)


def refers(rules: Rules, mutation: object) -> str:
    """Why a write may be refused for its references, as `it …`; empty where it is not."""
    if rules.schema.references and not isinstance(mutation, Delete):
        return f"refers to {rules.schema.references[0].target}"
    return f"is referred to by {rules.schema.referrers[0].collection}" if may_delete(rules, mutation) else ""


def is_kept(referrers: Iterable[Referrer]) -> bool:
    """Whether what is deleted is kept for a while, since the deletion may be undone."""
    return any(each.on_delete == "restrict" for each in referrers)


def missing(rules: Rules, key: str, field: str, target: Address) -> ReferenceViolation:
    """For a reference to what does not exist."""
    return ReferenceViolation(
        f"{rules.name}/{_cut(key)}: {field} refers to {target[0]}/{_cut(target[1])}, which does not exist here; create"
        " it first, or in the same write",
        **_details((rules.name, key), field, target),
    )


def unknown(referrer: tuple[str, str, str], target: Address) -> ReferenceViolation:
    """The same, by collection, key and field of what refers, for one that a majority decides."""
    collection, key, field = referrer
    return ReferenceViolation(
        f"{collection}/{_cut(key)}: {field} refers to {target[0]}/{_cut(target[1])}, which does not exist; create it"
        " first, or in the same transaction",
        **_details((collection, key), field, target),
    )


def referred_by(name: str, count: int, target: Address) -> ReferenceViolation:
    """For a deletion of what is referred to, as a majority has counted; `name` is `collection.field`."""
    collection, _, field = name.partition(".")
    return ReferenceViolation(
        f"{target[0]}/{_cut(target[1])}: {count} of {collection} refer to it by {field}, so it cannot be deleted;"
        " change or delete those first, or in the same transaction",
        collection=collection,
        field=field,
        target_collection=target[0],
        target=target[1],
        count=count,
    )


def counted(rules: Rules) -> bool:
    """Whether references to documents of a strong collection are counted."""
    return any(each.on_delete != "dangling" for each in rules.schema.referrers)


def referred(referrer: Address, field: str, target: Address) -> ReferenceViolation:
    """For a deletion of what is referred to."""
    return ReferenceViolation(
        f"{target[0]}/{_cut(target[1])}: {referrer[0]}/{_cut(referrer[1])} refers to it by {field}, so it cannot be"
        " deleted; change or delete that document first, or in the same write",
        **_details(referrer, field, target),
    )


def _details(referrer: Address, field: str, target: Address) -> dict[str, Any]:
    return {
        "collection": referrer[0],
        "key": referrer[1],
        "field": field,
        "target_collection": target[0],
        "target": target[1],
    }


def _cut(key: str) -> str:
    return key if len(key) <= _SHOWN else key[:_SHOWN] + "…"


def shown_by(rules: Rules, registers: Mapping[str, tuple[Version, ...]], field: str) -> Version | None:
    """The version that a plain field of a document is shown by; that of its deletion where it is deleted."""
    for name in _registers(rules, registers, field):
        if versions := registers.get(name, ()):
            return rules.strategy(name)(versions).winner
    return None


def _registers(rules: Rules, registers: Mapping[str, tuple[Version, ...]], field: str) -> Iterator[str]:
    if rules.per_field and field:
        yield field
    yield ""


def is_deletion(version: Version) -> bool:
    return version.value is None and version.operation == Operation.DELETE
