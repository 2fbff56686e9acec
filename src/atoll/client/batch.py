"""Writes that `batch` takes: all of them happen, or none, as one entry in one region."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from atoll.schema import Collection, Limits
from atoll.schema.models import encoded, jsonable, operators_of, schema_of


@dataclass(frozen=True, slots=True)
class Put:
    """Write the whole document."""

    model: Collection
    if_match: str | None = None


@dataclass(frozen=True, slots=True, init=False)
class Update:
    """Change some fields: `Update(Inventory, "sku-1", stock=Decrement(2))`."""

    model: type[Collection]
    key: str
    if_match: str | None
    changes: Mapping[str, Any]

    def __init__(
        self, model: type[Collection], key: str, /, *, if_match: str | None = None, **changes: Any
    ) -> None:
        for name, value in (("model", model), ("key", key), ("if_match", if_match), ("changes", changes)):
            object.__setattr__(self, name, value)


@dataclass(frozen=True, slots=True)
class Patch:
    """Apply operators as the HTTP interface has them: `Patch(Note, "n", {"$unset": ["title"]})`."""

    model: type[Collection]
    key: str
    operators: Mapping[str, Any]
    if_match: str | None = None


@dataclass(frozen=True, slots=True)
class Delete:
    model: type[Collection]
    key: str
    if_match: str | None = None


BatchWrite = Put | Update | Patch | Delete


def model_class(write: BatchWrite) -> type[Collection]:
    return type(write.model) if isinstance(write, Put) else write.model


def key_of(write: BatchWrite) -> str:
    return write.model.key if isinstance(write, Put) else write.key


def batch_item(write: BatchWrite, limits: Limits | None) -> dict[str, Any]:
    """One write as the HTTP interface takes it. Raises the RequestErrors of a single write."""
    schema = schema_of(model_class(write), limits)
    key = schema.validate_key(key_of(write))
    body: dict[str, Any] = {"collection": schema.name, "key": key}
    if write.if_match is not None:
        body["if_match"] = write.if_match
    match write:
        case Put(model=model):
            return {"put": body | {"value": msgspec.Raw(schema.from_model(model))}}
        case Update(changes=changes):
            plain = operators_of(schema, changes)
        case Patch(operators=operators):
            plain = jsonable(dict(operators), schema.name)
        case Delete():
            return {"delete": body}
    return {"patch": body | {"operators": msgspec.Raw(encoded(plain, schema.name))}}
