"""What a declaration accepts comes back as it was: its types are looked through and tried where it stands.

Values are made up for each type, nested models included. Each is written and read again, and must be the same. What is
found by name is refused first, since the reason is plainer.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from functools import partial
from itertools import chain, islice, zip_longest
from types import NoneType
from typing import Any, cast
from uuid import UUID

from pydantic import BaseModel, TypeAdapter
from pydantic_core import CoreSchema, SchemaValidator, to_json

from atoll.errors import DeclarationError
from atoll.schema.exact import NOT_SCHEMAS, own_functions, same_value
from atoll.schema.forms import nodes_within

_MOST_SAMPLES, _MOST_TRIED = 48, 400
_DEEPEST = 2
"""Rounds in types that hold themselves."""
_TEXTS = (
    "2024-01-01",
    "2024-01-01T00:00:00",
    "12:30:00",
    "P1D",
    "12345678-1234-4234-8234-123456789abc",
    "10.0.0.1",
    "::1",
    "10.0.0.0/8",
    "https://example.com/a?b=1",
)
"""Texts that some types write, so that another member of a union may take them for its own."""
_JSON_TEXTS = tuple(json.dumps(text).encode() for text in (*_TEXTS, "a", "1", 1))
_TEXT, _ANY = {"type": "str"}, {"type": "any"}
_PLAIN = (str, int, float, bool, NoneType, list, dict)
_OF_TYPE: Mapping[str, tuple[Any, ...]] = {
    "any": (1, "a", None),
    "none": (None,),
    "bool": (True, False),
    "int": (1, 0, -1, 7, 100),
    "float": (1.5, 0.0, -2.0, 10.0, 1234.56789),
    "decimal": (Decimal("1.50"), Decimal("-2"), Decimal("10"), Decimal("1234.56789")),
    "str": ("a", "A b", "", "1", "abcdefgh", *_TEXTS),
    "bytes": (b"a", b"\xfb\xff\xfe", b""),
    "date": (date(2024, 1, 2), date(2024, 1, 1)),
    "time": (time(12, 30), time(0, 0, 0, 5)),
    "datetime": (datetime.fromisoformat("2024-01-01"), datetime(2024, 1, 2, 3, 4, 5, 6, UTC)),
    "timedelta": (timedelta(days=400, seconds=5), timedelta(microseconds=-5)),
    "uuid": (UUID(int=1), UUID("12345678-1234-4234-8234-123456789abc")),
}


@dataclass(frozen=True, slots=True)
class Form:
    """How values of a declaration are checked, written and read."""

    where: str
    schema: Any
    """Of the core, as it is compiled."""
    accept: Callable[[Any], Any]
    write: Callable[[Any], bytes]
    read: Callable[[bytes], Any]

    @classmethod
    def of(cls, where: str, model: type[BaseModel], validator: Any) -> Form:
        """Of a collection, or of the holder of a field's value, whose `validator` is given."""

        def accept(value: Any) -> Any:
            return validator.validate_python(value.__dict__, strict=True, extra="forbid")

        def read(text: bytes) -> Any:
            return validator.validate_json(text, strict=True, extra="forbid")

        write = partial(model.__pydantic_serializer__.to_json, warnings=False)
        return cls(where, model.__pydantic_core_schema__, accept, write, read)


def check_kept(form: Form) -> None:
    """Raises DeclarationError."""
    for found, reason in _unfit(form.schema):
        raise DeclarationError(f"{form.where}{found.removeprefix('.value')}: {reason}")
    for value in islice(_samples(form.schema, _definitions(form.schema), 0), _MOST_TRIED):
        _try(form, value)


def _try(form: Form, value: Any) -> None:
    held = value
    with contextlib.suppress(Exception):  # what a validator has returned, it may refuse
        held = form.accept(value)
    try:
        text = form.write(held)
    except Exception as error:
        raise DeclarationError(
            f"{form.where}: {_shown(held)} is allowed, and cannot be stored: {error}"
        ) from error
    try:
        again, once_more = form.read(text), form.read(text)
        same_text = form.write(again) == text
    except Exception as error:
        raise _refusal(form, held, text, "which is not allowed") from error
    # Where even two readings differ, the type has no equality of its own, and only its text can be compared.
    if not same_text or (again == once_more and not same_value(again, held, typed=True)):
        raise _refusal(form, held, text, f"and read as {_shown(again)}")


def _refusal(form: Form, held: Any, text: bytes, what: str) -> DeclarationError:
    return DeclarationError(
        f"{form.where}: {_shown(held)} is stored as {text.decode()[:200]}, {what}; {_way_out(form.schema)}"
    )


def _way_out(schema: Any) -> str:
    nodes = list(nodes_within(schema))
    ways = []
    if any(node["type"] in ("union", "tagged-union") for node in nodes):
        ways.append("members of a union must differ in JSON, such as by a Literal field")
    if own_functions(schema) or any(node.get("post_init") or node.get("custom_init") for node in nodes):
        ways.append("a validator must leave what it returned as it is, and a serializer write what is read")
    if any(node["type"] == "dict" and node.get("keys_schema", _TEXT) != _TEXT for node in nodes):
        ways.append("in JSON the names of an object's members are strings, as in dict[str, …]")
    return "; ".join([*ways, "declare the type that is stored"])


def _shown(value: Any) -> str:
    return repr(getattr(value, "value", value))[:200]


def _unfit(schema: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """(path, reason) of what cannot be kept."""
    if isinstance(schema, list | tuple):
        for inner in schema:
            yield from _unfit(inner, path)
    if not isinstance(schema, dict):
        return
    kind = schema.get("type")
    if reason := _reason(schema):
        yield path, reason
    if kind == "model" and (private := getattr(schema["cls"], "__private_attributes__", None)):
        yield (
            f"{path}.{next(iter(private))}",
            "a name with a leading underscore is never stored; drop the underscore",
        )
    for computed in schema.get("computed_fields") or ():
        yield (
            f"{path}.{computed['property_name']}",
            "what is stored is the fields' own JSON form, so a computed_field has no place; use a property or a method",
        )
    yield from _own_serializer(schema, path)
    fields = schema.get("fields")
    if kind in ("model-fields", "typed-dict") and isinstance(fields, dict):
        for name, field in fields.items():
            yield from _unfit_field(name, field, path)
    elif kind == "dataclass-args" and isinstance(fields, list):
        for field in fields:
            yield from _unfit_field(field["name"], field, path)
    for name, inner in schema.items():
        if name not in NOT_SCHEMAS and name not in ("fields", "computed_fields"):
            yield from _unfit(inner, path)


def _reason(schema: Mapping[str, Any]) -> str | None:
    """Why values of a type cannot be kept, whatever is in it."""
    config = schema.get("config") or {}
    match schema.get("type"):
        case "generator":
            return "an iterator is used up by the first who reads it; use list[…]"
        case "date" | "datetime" if schema.get("now_op") == "future":
            return "what lies in the future will be past, and could then not be read; check it when it is written"
        case "is-subclass":
            return "JSON cannot represent a class; use its name, a str"
        case "json":
            return "text that holds JSON is stored as what it holds, and then not accepted; use JsonValue, or str"
        case "float" | "decimal" if schema.get("allow_inf_nan"):
            return "JSON has neither NaN nor infinities; drop allow_inf_nan, and use None for what is unknown"
        case "enum" if not all(isinstance(member.value, _PLAIN) for member in schema["members"]):
            return "JSON's values are str, int, float and bool, so what an enum's members are must be, too"
        case "literal" if not all(type(value) in _PLAIN for value in schema["expected"]):
            return "literals in JSON are str, int, bool or None; use these, or an Enum"
        case "model" | "dataclass" | "typed-dict" if config.get("extra_fields_behavior") == "allow":
            return 'what is not declared is not stored; drop extra="allow", and declare a field of dict[str, …] for it'
        case "model" if config.get("ser_json_bytes", "utf8") == "utf8" and _has_bytes(schema):
            return (
                "its bytes would be written as UTF-8, which not all bytes are; give the nested model"
                ' model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")'
            )
    return None


def _has_bytes(schema: Any) -> bool:
    """Whether bytes occur in it, but for nested models: these have their own configuration."""
    if isinstance(schema, list | tuple):
        return any(map(_has_bytes, schema))
    if not isinstance(schema, dict) or schema.get("type") == "bytes":
        return isinstance(schema, dict)
    return any(
        _has_bytes(inner)
        for name, inner in schema.items()
        if name not in NOT_SCHEMAS and not (isinstance(inner, dict) and inner.get("type") == "model")
    )


def _unfit_field(name: str, field: Mapping[str, Any], path: str) -> Iterator[tuple[str, str]]:
    path = f"{path}.{name}"
    if any(field.get(alias) not in (None, name) for alias in ("validation_alias", "serialization_alias")):
        yield path, "an alias gives one field two names; give the field itself that name"
    if field.get("serialization_exclude") or field.get("serialization_exclude_if"):
        yield path, "what is excluded is not stored; drop the exclude, or the field"
    if field.get("init_only"):
        yield path, "an InitVar is not stored; make it a field"
    if field.get("init") is False:
        yield path, "what the constructor does not take cannot be read; drop init=False"
    yield from _unfit(field["schema"], path)


def _own_serializer(schema: Mapping[str, Any], path: str) -> Iterator[tuple[str, str]]:
    serialization = schema.get("serialization") or {}
    function = serialization.get("function")
    if getattr(function, "__module__", "") == "pydantic.types" and "secret" in getattr(
        function, "__name__", ""
    ):
        yield (
            path,
            "a secret is written as asterisks, so it would be lost; use str, and keep it out of logs yourself",
        )
    elif serialization.get("is_field_serializer") or (schema.get("type") == "model" and function is not None):
        yield path, "what is stored is the fields' own JSON form, so a serializer has no place; use a method"


def _definitions(schema: Any) -> Mapping[str, Any]:
    if isinstance(schema, dict) and schema.get("type") == "definitions":
        return {each["ref"]: each for each in schema["definitions"]}
    return {}


def _samples(schema: Any, known: Mapping[str, Any], depth: int) -> Iterator[Any]:
    """Values to try; those that are not allowed are passed over later."""
    kind = schema["type"]
    if depth > _DEEPEST:
        return
    if kind in _OF_TYPE:
        yield from _OF_TYPE[kind]
        for bound in ("ge", "gt", "le", "lt"):
            if isinstance(edge := schema.get(bound), int | float):
                yield from (edge, edge + 1, edge - 1)
        if kind in ("str", "bytes") and schema.get("min_length"):
            yield ("x" if kind == "str" else b"x") * schema["min_length"]
        return
    match kind:
        case "enum":
            yield from schema["members"]
        case "literal":
            yield from schema["expected"]
        case "definitions":
            yield from _samples(schema["schema"], known, depth)
        case "definition-ref":
            yield from _samples(known[schema["schema_ref"]], known, depth + 1)
        case "nullable":
            yield None
            yield from _samples(schema["schema"], known, depth)
        case "union":
            yield from _alike(
                [each[0] if isinstance(each, tuple) else each for each in schema["choices"]], known, depth
            )
        case "tagged-union":
            for choice in schema["choices"].values():
                if isinstance(choice, dict):
                    yield from _samples(choice, known, depth)
        case "lax-or-strict" | "json-or-python" | "function-plain" | "url" | "multi-host-url":
            yield from _read(schema, known)
            inner = schema.get("strict_schema") or schema.get("python_schema")
            if inner is not None:
                yield from _samples(inner, known, depth)
        case "chain":
            yield from _samples(schema["steps"][0], known, depth)
        case "model" | "dataclass":
            yield from _instances(schema["cls"], schema["schema"], known, depth)
        case "typed-dict":
            yield from _objects(schema["fields"].items(), known, depth)
        case "list" | "set" | "frozenset" | "tuple" | "dict":
            yield from _containers(schema, known, depth)
        case _:
            if isinstance(schema.get("schema"), dict):  # a function around a type, a default
                yield from _samples(schema["schema"], known, depth)


def _alike(choices: list[Any], known: Mapping[str, Any], depth: int) -> Iterator[Any]:
    """Values of each member of a union, and what each makes of the JSON that others write."""
    columns = [list(islice(_samples(choice, known, depth), _MOST_SAMPLES)) for choice in choices]
    yield from (value for row in zip_longest(*columns) for value in row)
    texts: dict[bytes, None] = {}
    for value in chain(*columns):
        with contextlib.suppress(Exception):
            texts[to_json(value, bytes_mode="base64")] = None
    for choice in choices:
        yield from _read(choice, known, texts)


def _read(schema: Any, known: Mapping[str, Any], texts: Iterable[bytes] = _JSON_TEXTS) -> Iterator[Any]:
    """What a type makes of JSON texts."""
    whole = {"type": "definitions", "schema": schema, "definitions": list(known.values())}
    validator = SchemaValidator(cast(CoreSchema, whole if known else schema))
    for text in texts:
        with contextlib.suppress(Exception):  # no text of this type
            yield validator.validate_json(text, strict=True, extra="forbid")


def _containers(schema: Any, known: Mapping[str, Any], depth: int) -> Iterator[Any]:
    def inner(name: str, otherwise: str) -> list[Any]:
        return list(_samples(schema.get(name) or {"type": otherwise}, known, depth))

    match schema["type"]:
        case "tuple":
            yield from _rows([list(_samples(each, known, depth)) for each in schema["items_schema"]], tuple)
        case "dict":
            yield {}
            names = inner("keys_schema", "str") if schema.get("keys_schema", _ANY) != _ANY else list("a1")
            yield from _rows([names, inner("values_schema", "any")], lambda row: dict([row]))
        case kind:
            made = {"list": list, "set": set, "frozenset": frozenset}[kind]
            yield made()
            values = inner("items_schema", "any")
            for each in [*([value] for value in values), values[:3]]:  # several, since an order may change
                with contextlib.suppress(TypeError):  # unhashable
                    yield made(each)


def _instances(cls: type, schema: Any, known: Mapping[str, Any], depth: int) -> Iterator[Any]:
    inner = schema
    while inner["type"] not in ("model-fields", "dataclass-args") and isinstance(inner.get("schema"), dict):
        inner = inner["schema"]
    fields = inner.get("fields", ())
    named = fields.items() if isinstance(fields, dict) else [(field["name"], field) for field in fields]
    if issubclass(cls, BaseModel) and cls.__pydantic_root_model__:
        values = _samples(schema, known, depth)
    else:
        values = _objects(named, known, depth)
    for given in values:
        try:
            yield (
                cls.model_validate(given)
                if issubclass(cls, BaseModel)
                else TypeAdapter(cls).validate_python(given)
            )
        except Exception:
            continue  # made up, and not allowed


def _objects(fields: Any, known: Mapping[str, Any], depth: int) -> Iterator[dict[str, Any]]:
    names, columns, defaults = [], [], set()
    for name, field in fields:
        if "default" in field["schema"]:
            defaults.add(name)
        if values := list(islice(_samples(field["schema"], known, depth), _MOST_TRIED)):
            names.append(name)
            columns.append(values)
    for row in _rows(columns, lambda row: dict(zip(names, row, strict=True))):
        if defaults:
            yield {name: value for name, value in row.items() if name not in defaults}
            defaults.clear()
        yield row


def _rows(columns: list[list[Any]], made: Callable[[tuple[Any, ...]], Any]) -> Iterator[Any]:
    """As many as the longest column has values; the others begin anew. No two columns are alike."""
    if all(columns):
        for at in range(max(map(len, columns), default=1)):
            yield made(tuple(column[(at + place) % len(column)] for place, column in enumerate(columns)))
