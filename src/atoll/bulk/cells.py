"""A field's value as one cell of text, both ways, going by the declaration.

Strings are written unchanged, everything else as JSON text: `12`, `true`, `["a","b"]`. An empty cell is null if
the field may be null, and the empty string if it is a plain string. Otherwise the field is not given. If a string
could be taken for something else (`Any`, `int | str`), it is a JSON string, in quotes. In a field `str | None`, a cell
of CSV that is `""` is the empty string.

Databases and spreadsheets write some values in other ways than JSON. Those with one meaning are understood: `t` and
`TRUE`, `5.0` for a whole number, `2026-01-02 03:04:05+00`, and `\\x6869` for bytes.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from datetime import datetime, time
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
_INTEGER = re.compile(r"([+-]?[0-9]+)(?:\.0*)?")
_BOOLEANS = {"true": b"true", "t": b"true", "false": b"false", "f": b"false"}
_FRACTION = re.compile(r"(\.[0-9]{6})0+(?![0-9])")
"""Of a second, with zeros beyond the microseconds."""
_HOURS = re.compile(r"(:[0-9.]+[+-][0-9]{2})$")
"""A moment whose distance from UTC has hours only, as PostgreSQL and DuckDB write it."""
_MIDNIGHT = re.compile(r"[ T]00:00(:00(\.0*)?)?$")
_EXACT = 1 << 53
"""Beyond, a float is not one whole number."""
_HEX = re.compile(r"\\x((?:[0-9A-Fa-f]{2})*)")
"""PostgreSQL's bytea; a backslash is not of base64."""
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
        self.nodes: dict[str, frozenset[str]] = {}
        """field → the kinds of values that its declaration is made of"""
        self.optional_texts: set[str] = set()
        """Fields that may be null, and the empty string too."""
        self.formed: dict[str, str] = {}
        """field → `datetime`, `date`, `time` or `bytes`, where it is nothing else"""
        self.unlike: set[str] = set()
        """Fields whose values other programs write in a form of their own in JSON, too."""
        self._formatted: set[str] = set()
        """Strings of a certain form, which the empty string never has."""
        for field, form in schema.forms.items():
            member = described["properties"][field]
            types = frozenset(_types_of(member, definitions))
            nodes = form.node_types()
            if "decimal" in nodes and not nodes & {"int", "float", "str", "any", "json"}:
                types -= {"number"}  # as a JSON number it would lose digits on the way
            self.types[field] = types
            self.nodes[field] = nodes
            kinds = nodes - {"default", "nullable"}
            if len(kinds) == 1 and kinds <= {"datetime", "date", "time", "bytes"}:
                self.formed[field] = next(iter(kinds))
            if field in self.formed or types <= {"integer", "null"}:
                self.unlike.add(field)
            if "string" in types and not _takes_empty(form, schema.limits):
                self._formatted.add(field)
            elif {"string", "null"} <= types:
                self.optional_texts.add(field)

    def read(self, field: str, cell: str) -> bytes | None:
        """JSON text of a cell; None when the field is not given. Raises InvalidDocument."""
        types = self.types[field]
        if not cell:
            if "null" in types:
                return b"null"
            return b'""' if "string" in types and field not in self._formatted else None
        if field in self.formed:
            return _encode(_formed(self.formed[field], cell))
        if "string" in types:
            return _encode(cell) if not _could_be_else(cell, types) else cell.encode()
        text = cell.strip()
        whole = _INTEGER.fullmatch(text) if types <= {"integer", "number", "null"} else None
        if whole is not None and ("number" not in types or whole[1] == text):
            # Leading zeros and a plus sign are no JSON; the length is bounded before int(), which is quadratic.
            return str(int(whole[1])).encode() if len(text) <= 40 else text.encode()
        if "boolean" in types and (truth := _BOOLEANS.get(text.lower())):
            return truth
        if _json_type(text) is None:
            wanted = " or ".join(sorted(types))
            raise invalid_document(
                self._name, [{"field": field, "problem": f"{cell[:60]!r} is no {wanted}, written as JSON"}]
            )
        return text.encode()

    def in_form(self, field: str, value: Any) -> Any:
        """The same value in the form that the declaration takes, if it is another one with the same meaning."""
        kind = self.formed.get(field)
        if kind is not None and isinstance(value, str):
            return _formed(kind, value)
        if kind == "date" and isinstance(value, datetime) and value.tzinfo is None:
            return value.date() if value.time() == time.min else value  # pandas has no dates
        if kind is None and isinstance(value, float) and self.types[field] <= {"integer", "null"}:
            whole = value.is_integer() and abs(value) <= _EXACT
            return int(value) if whole else value  # pandas has no integers beside missing values
        return value

    def write(self, field: str, text: bytes | None) -> str:
        """The cell that `read` turns into this JSON text; an empty one where the field is missing."""
        if text is None or text == b"null":
            return ""
        types = self.types[field]
        if text[:1] != b'"':
            return text.decode()
        value: str = _decode(text)
        if types <= {"string", "null"}:
            return value
        return text.decode() if not value or _could_be_else(value, types) else value


def _formed(kind: str, text: str) -> str:
    if kind == "bytes":
        found = _HEX.fullmatch(text) if text[:1] == "\\" else None
        return text if found is None else base64.b64encode(bytes.fromhex(found[1])).decode()
    if kind == "date":
        return _MIDNIGHT.sub("", text) if len(text) > 10 else text
    if text[-3:-2] in ("+", "-"):
        text = _HOURS.sub(r"\1:00", text)
    return _FRACTION.sub(r"\1", text) if "." in text else text


def _takes_empty(form: FieldForm, limits: Limits) -> bool:
    try:
        return bool(form.check("", limits) == "")
    except InvalidDocument:
        return False


def _could_be_else(cell: str, types: frozenset[str]) -> bool:
    """Whether a cell of a field that takes strings is meant as JSON. Null is an empty cell, never a word."""
    if types <= {"string", "null"}:
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
