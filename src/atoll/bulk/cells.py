"""A field's value as one cell of text, both ways, going by the declaration.

Strings are written unchanged, everything else as JSON text: `12`, `true`, `["a","b"]`. An empty cell is null if
the field may be null, and the empty string if it is a plain string. Otherwise the field is not given. If a string
could be taken for something else (`Any`, `int | str`, `str | None`), it is a JSON string, in quotes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from atoll.errors import InvalidDocument
from atoll.schema import CollectionSchema, Limits
from atoll.schema.forms import FieldForm
from atoll.schema.problems import invalid_document

_JSON_TYPES = frozenset({"string", "number", "integer", "boolean", "null", "array", "object"})
_TYPE_NAMES: dict[type, str] = {
    str: "string",
    bool: "boolean",
    int: "integer",
    float: "number",
    type(None): "null",
    list: "array",
    dict: "object",
}
_INTEGER = re.compile(r"[+-]?[0-9]+")
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


class Cells:
    """The cells of one collection."""

    def __init__(self, schema: CollectionSchema) -> None:
        self._name = schema.name
        described = schema.json_schema()
        definitions = described.get("$defs", {})
        self.types: dict[str, frozenset[str]] = {}
        """field → the JSON types that it may be"""
        self._formatted: set[str] = set()
        """Strings of a certain form, which the empty string never has."""
        for field, form in schema.forms.items():
            member = described["properties"][field]
            types = frozenset(_types_of(member, definitions))
            nodes = form.node_types()
            if "decimal" in nodes and not nodes & {"int", "float", "str", "any", "json"}:
                types -= {"number"}  # as a JSON number it would lose digits on the way
            self.types[field] = types
            if "string" in types and not _takes_empty(form, schema.limits):
                self._formatted.add(field)

    def read(self, field: str, cell: str) -> bytes | None:
        """JSON text of a cell; None when the field is not given. Raises InvalidDocument."""
        types = self.types[field]
        if not cell:
            if "null" in types:
                return b"null"
            return b'""' if "string" in types and field not in self._formatted else None
        if "string" in types:
            return _encode(cell) if not _could_be_else(cell, types) else cell.encode()
        text = cell.strip()
        if types <= {"integer", "number", "null"} and _INTEGER.fullmatch(text):
            # Leading zeros and a plus sign are no JSON; the length is bounded before int(), which is quadratic.
            return str(int(text)).encode() if len(text) <= 40 else text.encode()
        if "boolean" in types and text.lower() in ("true", "false"):
            return text.lower().encode()
        if _json_type(text) is None:
            wanted = " or ".join(sorted(types))
            raise invalid_document(
                self._name, [{"field": field, "problem": f"{cell[:60]!r} is no {wanted}, written as JSON"}]
            )
        return text.encode()

    def write(self, field: str, text: bytes | None) -> str:
        """The cell that `read` turns into this JSON text; an empty one where the field is missing."""
        if text is None or text == b"null":
            return ""
        types = self.types[field]
        if text[:1] != b'"':
            return text.decode()
        value: str = _decode(text)
        if types == {"string"}:
            return value
        return text.decode() if not value or _could_be_else(value, types) else value


def _takes_empty(form: FieldForm, limits: Limits) -> bool:
    try:
        return bool(form.check("", limits) == "")
    except InvalidDocument:
        return False


def _could_be_else(cell: str, types: frozenset[str]) -> bool:
    """Whether a cell of a field that takes strings is meant as JSON. Null is an empty cell, never a word."""
    if types == {"string"}:
        return False
    if cell[0] == '"':
        return _json_type(cell) == "string"
    found = _json_type(cell)
    return (found in types and found != "null") or (found == "integer" and "number" in types)


def _json_type(text: str) -> str | None:
    try:
        return _TYPE_NAMES[type(_decode(text))]
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return None


def _types_of(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Iterator[str]:
    if "$ref" in schema:
        yield from _types_of(definitions[schema["$ref"].rpartition("/")[2]], definitions)
        return
    for word in ("anyOf", "oneOf", "allOf"):
        if word in schema:
            for inner in schema[word]:
                yield from _types_of(inner, definitions)
            return
    if "enum" in schema or "const" in schema:
        for value in schema.get("enum", [schema.get("const")]):
            yield _TYPE_NAMES[type(value)]
        return
    kind = schema.get("type")
    yield from _JSON_TYPES if kind is None else [kind] if isinstance(kind, str) else kind
