"""The JSON bodies of requests and answers, as types: they are decoded by them, and described from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from atoll.schema.bounds import BATCH_WRITES
from atoll.schema.compiled import CollectionSchema
from atoll.schema.fields import INT_MAX, INT_MIN

Schema = dict[str, Any]
Described = type | Schema | Callable[[CollectionSchema], Schema]
"""A type, a JSON schema, or one for each collection."""


class DeleteItem(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, gc=False, kw_only=True):
    collection: str
    key: Annotated[str, Meta(extra_json_schema={"format": "key"})]
    if_match: str | None = None


class PutItem(DeleteItem, forbid_unknown_fields=True, gc=False, kw_only=True):
    value: msgspec.Raw
    """The document stays the bytes that came."""


class PatchItem(DeleteItem, forbid_unknown_fields=True, gc=False, kw_only=True):
    operators: msgspec.Raw


class BatchWrite(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """One of the three."""

    put: PutItem | UnsetType = UNSET
    patch: PatchItem | UnsetType = UNSET
    delete: DeleteItem | UnsetType = UNSET

    def __post_init__(self) -> None:
        """Ends the decoding of what is no batch. It also lets other threads go on meanwhile."""
        if bool(self.put) + bool(self.patch) + bool(self.delete) != 1:
            raise ValueError("a write of the batch needs one of put, patch, delete")

    @property
    def item(self) -> DeleteItem:
        found = self.put or self.patch or self.delete
        assert found
        return found


class Writes(msgspec.Struct, forbid_unknown_fields=True):
    writes: list[BatchWrite]


class CheckItem(msgspec.Struct, forbid_unknown_fields=True, gc=False, kw_only=True):
    """A document that a transaction has read."""

    collection: str
    key: Annotated[str, Meta(extra_json_schema={"format": "key"})]
    version: str | None
    """Null where it was absent, and has to be so still."""


class ReadItem(msgspec.Struct, forbid_unknown_fields=True, gc=False, kw_only=True):
    collection: str
    key: Annotated[str, Meta(extra_json_schema={"format": "key"})]


class TransactionBody(msgspec.Struct, forbid_unknown_fields=True):
    """Either `reads` alone, or `checks` and `writes`."""

    reads: list[ReadItem] = []
    checks: list[CheckItem] = []
    writes: list[BatchWrite] = []


decode_transaction = msgspec.json.Decoder(TransactionBody).decode
decode_writes = msgspec.json.Decoder(Writes).decode


BINARY: Schema = {"type": "string", "format": "binary"}
TEXT: Schema = {"type": "string"}
OBJECT: Schema = {"type": "object"}


def document(collection: CollectionSchema) -> Schema:
    return {"$ref": f"#/components/schemas/{collection.name}"}


def shown(collection: CollectionSchema) -> Schema:
    """A document that is there."""
    value = {"anyOf": [document(collection), {"type": "null"}]}
    number = {"type": "integer"}
    sibling = _object(value=value, region=TEXT, seq=number, stamp=number)
    return _versioned(document(collection), siblings={"type": "array", "items": sibling})


def written(collection: CollectionSchema) -> Schema:
    """What is shown after a write: null where that is a deletion."""
    return _versioned({"anyOf": [document(collection), {"type": "null"}]})


def page(collection: CollectionSchema) -> Schema:
    items = {"type": "array", "items": _versioned(document(collection))}
    return _object(items=items, cursor={"type": ["string", "null"]})


def _versioned(value: Schema, **more: Schema) -> Schema:
    found = _object(key=TEXT, value=value, version=TEXT)
    return {**found, "properties": {**found["properties"], **more}}


def _object(**properties: Schema) -> Schema:
    """An object that has all of these members, and may have more."""
    return {"type": "object", "required": list(properties), "properties": properties}


def operators(collection: CollectionSchema) -> Schema:
    """A patch of one collection: which operator fits which field, with which argument."""
    at = f"#/components/schemas/{collection.name}/properties"
    members = {f"^{name}\\.": {"$ref": f"{at}/{name}/additionalProperties"} for name in collection.maps}
    number = {"type": "integer", "minimum": INT_MIN, "maximum": INT_MAX}
    by_operator: dict[str, Schema] = {"$set": {name: {"$ref": f"{at}/{name}"} for name in collection.fields}}
    for name, lattice in collection.lattices.items():
        elements = {"type": "array", "items": {"$ref": f"{at}/{name}/items"}}
        inserted = elements if lattice.kind == "list" else TEXT
        place = {**number, "minimum": 0}
        splice = closed({"at": place, "remove": place, "insert": inserted}, "at")
        arguments = {
            "$inc": number,
            "$add": elements,
            "$remove": elements,
            "$append": TEXT,
            "$splice": splice,
        }
        for operator in lattice.operators & arguments.keys():
            by_operator.setdefault(operator, {})[name] = arguments[operator]
    properties: Schema = {operator: closed(named) for operator, named in sorted(by_operator.items())}
    properties["$set"]["patternProperties"] = members
    optional = collection.body_model.model_fields
    names = {"enum": [name for name in collection.fields if not optional[name].is_required()]}
    properties["$unset"] = {
        "type": "array",
        "items": {"anyOf": [names, *({"type": "string", "pattern": pattern} for pattern in members)]},
    }
    return {**closed(properties), "minProperties": 1}


def batch(collections: Mapping[str, CollectionSchema]) -> Schema:
    """The writes of a batch, of any collection."""
    kinds = []
    for collection in collections.values():
        head = {"collection": {"const": collection.name}, "key": {"type": "string", "format": "key"}}
        for verb, more in (
            ("put", {"value": document(collection)}),
            ("patch", {"operators": operators(collection)}),
            ("delete", {}),
        ):
            item = closed({**head, **more, "if_match": {"type": ["string", "null"]}}, *head, *more)
            kinds.append(closed({verb: item}, verb))
    writes = {"type": "array", "minItems": 1, "maxItems": BATCH_WRITES, "items": {"oneOf": kinds}}
    return closed({"writes": writes}, "writes")


def transaction(collections: Mapping[str, CollectionSchema]) -> Schema:
    """The reads of a snapshot, or the checks and writes of a transaction."""
    items = batch(collections)["properties"]["writes"]["items"]
    named: Schema = {
        "collection": {"enum": [*collections]},
        "key": {"type": "string", "format": "key"},
    }
    version: Schema = {"type": ["string", "null"]}
    kinds = {
        "reads": closed(named, *named),
        "checks": closed({**named, "version": version}, *named, "version"),
        "writes": items,
    }
    lists = {name: {"type": "array", "maxItems": BATCH_WRITES, "items": each} for name, each in kinds.items()}
    return closed(lists)


def closed(properties: Schema, *required: str) -> Schema:
    """An object that has no other members."""
    found: Schema = {"type": "object", "properties": properties, "additionalProperties": False}
    return {**found, "required": list(required)} if required else found
