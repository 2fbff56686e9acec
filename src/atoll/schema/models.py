"""Between a team's classes and the JSON that travels."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from typing import Any, TypeVar, cast

import msgspec
from pydantic_core import PydanticSerializationError, to_jsonable_python

from atoll.errors import InvalidDocument, InvalidOperation
from atoll.schema import (
    Add,
    Collection,
    CollectionSchema,
    Limits,
    Operation,
    Remove,
    Splice,
    compile_collection,
)
from atoll.schema.collection import is_base
from atoll.schema.exact import check_zones
from atoll.schema.forms import FieldForm, encode_json
from atoll.schema.problems import unknown_field

M = TypeVar("M", bound=Collection)


@lru_cache(maxsize=1024)
def schema_of(model: type[Collection], limits: Limits | None = None) -> CollectionSchema:
    """The collection of a class. Raises InvalidOperation for what is none."""
    if not (isinstance(model, type) and issubclass(model, Collection)) or is_base(model):
        raise InvalidOperation(
            f"{getattr(model, '__name__', model)!r} is not a collection; pass a class that inherits from Collection"
        )
    return compile_collection(model, limits)


def model_of(model: type[M], key: str, value: bytes) -> M:
    """An instance from the document's JSON text. Raises InvalidDocument where it does not fit."""
    return cast(M, fitted(schema_of(model), key, value))


def fitted(schema: CollectionSchema, key: str, value: bytes) -> Collection:
    """An instance of the collection's class. Raises InvalidDocument, which names the key, where it does not fit."""
    try:
        return schema.to_model(key, value)
    except InvalidDocument as error:
        raise InvalidDocument(
            f"{schema.name}/{key} does not fit its declaration: {error.message}",
            **{**error.details, "collection": schema.name, "key": key},
        ) from None


def operators_of(schema: CollectionSchema, changes: Mapping[str, Any]) -> dict[str, Any]:
    """The patch that says the same as `update(..., stock=Decrement(2), title="x")`.

    Operations become their operator, everything else `$set`, None included. Raises UnknownField,
    InvalidDocument, InvalidOperation.
    """
    if not changes:
        raise InvalidOperation(f'an update of {schema.name} changes nothing; name a field, such as title="…"')
    operators: dict[str, Any] = {}
    for field, change in changes.items():
        if field not in schema.forms:
            raise unknown_field(field, schema.name, schema.fields)
        where = f"{schema.name}.{field}"
        if isinstance(change, Operation):
            argument, form = change.argument, schema.elements.get(field)
            if isinstance(change, Add | Remove):
                argument = jsonable(argument, where, form and form.many)
            elif isinstance(change, Splice) and isinstance(change.insert, list):
                argument = {**change.argument, "insert": jsonable(change.insert, where, form and form.many)}
            operators.setdefault(change.operator, {})[field] = argument
        else:
            value = schema.validate_field(field, jsonable(change, where, schema.forms[field]))
            operators.setdefault("$set", {})[field] = value
    return operators


def encoded(value: Any, where: str) -> bytes:
    """JSON text of plain data. Raises InvalidDocument for NaN, the infinities and lone surrogates."""
    try:
        text = msgspec.json.encode(value)
    except UnicodeEncodeError as error:
        raise InvalidDocument(
            f"{where}: a lone surrogate is no character ({error}); send the whole one"
        ) from None
    if b"null" in text:  # as it would be written
        encode_json(value, where)
    return text


def jsonable(value: Any, where: str, form: FieldForm | None = None) -> Any:
    """Plain JSON data of dates, decimals, sets, models and the like; `form` tells the type. Raises InvalidDocument."""
    if form is not None:
        with suppress(PydanticSerializationError, ValueError, RecursionError):  # it is of another type
            found = form.plain(value)
            check_zones(value, where)
            return found
    if value is None or isinstance(value, str | int | float):
        return value
    try:
        found = to_jsonable_python(value, bytes_mode="base64", inf_nan_mode="constants", exclude_none=False)
    except (PydanticSerializationError, ValueError, RecursionError) as error:
        raise InvalidDocument(f"{where}: not a JSON value ({error or 'nested too deeply'})") from None
    check_zones(value, where)
    return found
