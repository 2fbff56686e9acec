"""A single field's value, checked by itself: for `$set`, elements of sets and lists, members of maps."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from types import NoneType
from typing import Annotated, Any

import msgspec
from pydantic import BaseModel, ConfigDict, FailFast, Field, ValidationError, create_model
from pydantic.fields import FieldInfo
from pydantic_core import PydanticSerializationError, SchemaValidator

from atoll.errors import InvalidDocument, InvalidOperation
from atoll.schema.exact import NOT_SCHEMAS, as_float, check_digits, exact_validator, own_functions
from atoll.schema.limits import Limits, check_text
from atoll.schema.problems import invalid_document, problem

CONFIG = ConfigDict(
    # Strict mode still reads dates, decimals, UUIDs and sets from the JSON that stands for them.
    strict=True,
    extra="forbid",
    allow_inf_nan=False,
    validate_default=True,
    # Unlike null, these show up in the text, where `check_text` finds what no declared type has caught.
    ser_json_inf_nan="constants",
    ser_json_bytes="base64",
    val_json_bytes="base64",
    # Building waits for the declaration's own checks, whose messages say more.
    defer_build=True,
)

AS_DECLARED: dict[str, Any] = {"strict": True, "extra": "forbid"}
"""For validators: nested models are as strict as the collection, whatever their own configuration."""

_encode = json.JSONEncoder(allow_nan=False, separators=(",", ":"), default=as_float).encode
_decode: Callable[[bytes], Any] = msgspec.json.Decoder().decode


def encode_json(value: Any, where: str) -> str:
    """JSON text of plain data. Raises InvalidDocument for what JSON cannot say (NaN, sets, cycles)."""
    try:
        return _encode(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidDocument(f"{where}: not a JSON value ({error or 'nested too deeply'})") from None


@dataclass(frozen=True, slots=True)
class FieldForm:
    """The declared type of one value."""

    where: str
    """`collection.field`, for messages."""
    model: type[BaseModel]
    """Holds the value as its only field, `value`."""
    validator: SchemaValidator
    rounds: bool
    """Whether it has decimals or durations, of which digits may be lost."""
    foreign_code: bool
    """Whether validators or serializers of the team's own take part."""
    many: FieldForm | None = None
    """A list of such values; of an element's form."""

    @classmethod
    def of_field(cls, where: str, info: FieldInfo, config: ConfigDict = CONFIG) -> FieldForm:
        """For a field of a collection, with its configuration. Raises pydantic's errors for an unfit type."""
        extras: dict[str, Any] = {"discriminator": info.discriminator} if info.discriminator else {}
        if info.default_factory is not None:
            default = Field(default_factory=info.default_factory, **extras)
        else:
            default = Field(default=info.default, **extras)
        annotation = Annotated[(info.annotation, *info.metadata)] if info.metadata else info.annotation
        return cls._of(where, annotation, default, config)

    @classmethod
    def of_type(cls, where: str, annotation: Any, config: ConfigDict = CONFIG) -> FieldForm:
        """For an element or member of a field. Raises as `of_field` does."""
        # The first failure is enough: of a list of a million, as many would be written out.
        many = cls._of(where, Annotated[list[annotation], FailFast()], Field(), config)
        return replace(cls._of(where, annotation, Field(), config), many=many)

    @classmethod
    def _of(cls, where: str, annotation: Any, default: Any, config: ConfigDict) -> FieldForm:
        model = create_model("Value", __config__=config, value=(annotation, default))
        model.model_rebuild(force=True)
        validator = exact_validator(model)
        kinds = frozenset(types_within(model.__pydantic_core_schema__))
        foreign = own_functions(model.__pydantic_core_schema__)
        return cls(where, model, validator, bool(kinds & {"decimal", "timedelta"}), foreign)

    def plain(self, value: Any) -> Any:
        """JSON data of a Python value, written as its type is. Raises PydanticSerializationError."""
        if type(value) in _PLAIN and not self.foreign_code:
            return value
        held = self.model.model_construct(value=value)
        return self.model.__pydantic_serializer__.to_python(held, mode="json", warnings=False)["value"]

    def check(self, value: Any, limits: Limits) -> Any:
        """The value as stored, from plain JSON data. Raises InvalidDocument."""
        try:
            return self._checked(value, limits)
        except ValidationError as error:
            raise self._refusal(error) from None

    def check_all(self, values: list[Any], limits: Limits) -> list[Any]:
        """As `check`, of elements, in a hundredth of the time. Raises InvalidDocument for the first that fails."""
        assert self.many is not None, "the form is an element's"
        try:
            return list(self.many._checked(values, replace(limits, depth=limits.depth + 1)))
        except ValidationError as error:
            place = error.errors(include_url=False, include_input=False)[0]["loc"]
            if len(place) > 1 and isinstance(place[1], int):
                self.check(values[place[1]], limits)
            raise self._refusal(error) from None

    def _checked(self, value: Any, limits: Limits) -> Any:
        """As `check`. Raises pydantic's ValidationError, too."""
        text = encode_json(value, self.where)
        try:
            stored = self._stored('{"value":' + text + "}", limits)
        except ValidationError:
            raise
        except Exception as error:
            raise self._foreign(error) from error
        if self.rounds:
            check_digits(value, stored, self.where)
        if self.foreign_code:
            self._check_stable(stored, limits)
        return stored

    def _foreign(self, error: Exception) -> Exception:
        if not self.foreign_code or isinstance(error, InvalidDocument):
            return error
        return InvalidDocument(f"{self.where}: a validator raised {type(error).__name__}: {error}")

    def _check_stable(self, stored: Any, limits: Limits) -> None:
        """Raise InvalidDocument where the team's own functions make something else of what they returned."""
        text = encode_json(stored, self.where)
        try:
            again = self._stored('{"value":' + text + "}", limits)
        except Exception as error:
            raise InvalidDocument(
                f"{self.where}: a validator refuses what it returned itself: {error}"
            ) from error
        if encode_json(again, self.where) != text:
            raise InvalidDocument(f"{self.where}: a validator changes what it returned itself; correct it")

    def default(self, limits: Limits) -> Any:
        """What the field is when not given. Raises InvalidOperation where it must be given."""
        try:
            return self._stored("{}", limits)
        except ValidationError as error:
            if error.errors(include_url=False)[0]["type"] == "missing":
                raise InvalidOperation(
                    f"{self.where} is required and cannot be unset; set another value"
                ) from None
            raise self._refusal(error) from None

    def node_types(self) -> frozenset[str]:
        """Names of the core schema's types that occur in it, such as `int` or `any`."""
        found = Counter(types_within(self.model.__pydantic_core_schema__))
        found.subtract(("model", "model-fields", "model-field"))  # the holder's own
        return frozenset(kind for kind, times in found.items() if times > 0)

    def literal_types(self) -> frozenset[str]:
        """Names of the types of `Literal` values in it."""
        return frozenset(
            type(value).__name__
            for node in nodes_within(self.model.__pydantic_core_schema__)
            if node.get("type") == "literal"
            for value in node["expected"]
        )

    def has_serializer(self) -> bool:
        """Whether the type, or one within it, is written by a function of the team's own."""
        return _any_serializer(self.model.__pydantic_core_schema__)

    def _stored(self, text: str, limits: Limits) -> Any:
        instance = self.validator.validate_json(text, **AS_DECLARED)
        try:
            body = self.model.__pydantic_serializer__.to_json(instance)
        except PydanticSerializationError as error:
            raise InvalidDocument(f"{self.where}: {error}") from None
        check_text(body, limits, self.where)
        return _decode(body)["value"]

    def _refusal(self, error: ValidationError) -> InvalidDocument:
        found = [problem(item) for item in error.errors(include_url=False, include_input=False)]
        for item in found:
            item["field"] = item["field"].removeprefix("value").removeprefix(".")
        return invalid_document(self.where, found)


_PLAIN = frozenset({NoneType, bool, int, float, str})
_AS_TEXT = frozenset({"bytes", "date", "datetime", "decimal", "time", "timedelta", "uuid"})
_VALUES = _AS_TEXT | {
    "bool",
    "enum",
    "float",
    "int",
    "is-instance",
    "literal",
    "multi-host-url",
    "str",
    "url",
}


@lru_cache(maxsize=1024)
def text_type(form: FieldForm) -> str | None:
    """The type of values that JSON holds as texts: the core schema's word, such as `decimal`.

    None where texts are texts; "" where a text may be of one such type or of another.
    """
    kinds = form.node_types()
    found = kinds & _AS_TEXT
    if not found or kinds & {"any", "json", "dict", "model", "dataclass", "typed-dict"}:
        return None
    return min(found) if len(kinds & _VALUES) == 1 else ""


_HOLDS = {"list": "items_schema", "set": "items_schema", "frozenset": "items_schema", "dict": "values_schema"}


def types_within(schema: Any) -> Iterator[str]:
    return (node["type"] for node in nodes_within(schema))


def nodes_within(schema: Any) -> Iterator[dict[str, Any]]:
    if isinstance(schema, dict):
        if isinstance(schema.get("type"), str):
            yield schema
            if _HOLDS.get(schema["type"], "type") not in schema:
                yield {"type": "any"}  # such as `list`, whatever it holds
        for name, inner in schema.items():
            if name == "function":  # whether it takes information about the value
                continue
            if name == "fields" and isinstance(inner, dict):  # by name, which may be any word
                for field in inner.values():
                    yield from nodes_within(field)
            elif name not in NOT_SCHEMAS:
                yield from nodes_within(inner)
    elif isinstance(schema, list | tuple):
        for inner in schema:
            yield from nodes_within(inner)


def _any_serializer(schema: Any) -> bool:
    if isinstance(schema, dict):
        if str(schema.get("serialization", {}).get("type", "")).startswith("function"):
            return True
        return any(_any_serializer(inner) for inner in schema.values())
    return isinstance(schema, list | tuple) and any(_any_serializer(inner) for inner in schema)
