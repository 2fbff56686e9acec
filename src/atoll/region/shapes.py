"""What the store makes of the declarations: columns of views for SQL tools, and indexes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from pydantic import BaseModel

from atoll.schema.application import Application, CollectionSchema
from atoll.schema.forms import text_type
from atoll.store.port import ColumnKind, Shape

_BY_TYPE: Mapping[str, ColumnKind] = {
    "string": "text",
    "integer": "integer",
    "number": "number",
    "boolean": "boolean",
}
_BY_FORMAT: Mapping[str, ColumnKind] = {"date-time": "time", "date": "date", "uuid": "uuid"}


def shapes_of(application: Application) -> list[Shape]:
    """One for each collection, in declaration order."""
    return [_shape(schema) for schema in application.collections.values()]


def _shape(schema: CollectionSchema) -> Shape:
    columns = tuple((name, _kind(schema, name)) for name in schema.fields)
    # Whoever deletes a document looks for those that refer to it.
    references = (each.field for each in schema.references)
    indexes = tuple(dict.fromkeys((*schema.policy.indexes, *references)))
    decimals = frozenset(name for name in indexes if text_type(schema.forms[name]) == "decimal")
    return Shape(schema.name, columns, indexes, decimals)


def _kind(schema: CollectionSchema, field: str) -> ColumnKind:
    described = _described(schema.forms[field].model)
    value = _resolved(described["properties"]["value"], described.get("$defs", {}))
    options = [_resolved(option, described.get("$defs", {})) for option in value.get("anyOf", [value])]
    kinds = {_simple(option) for option in options if option.get("type") != "null"}
    return kinds.pop() if len(kinds) == 1 else "json"


@lru_cache(maxsize=1024)
def _described(model: type[BaseModel]) -> Mapping[str, Any]:
    """Every open and every new declaration asks, and the answer never changes."""
    return model.model_json_schema(mode="serialization")


def _resolved(described: Mapping[str, Any], definitions: Mapping[str, Any]) -> Mapping[str, Any]:
    reference = described.get("$ref")
    return described if reference is None else definitions[reference.rpartition("/")[2]]


def _simple(described: Mapping[str, Any]) -> ColumnKind:
    kind = described.get("type")
    if kind == "string":
        return _BY_FORMAT.get(described.get("format", ""), "text")
    return _BY_TYPE.get(kind, "json") if isinstance(kind, str) else "json"
