"""A collection's declaration, worked out once into what every request needs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import msgspec
from pydantic import AfterValidator, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticSerializationError

from atoll.errors import InvalidDocument, InvalidOperation
from atoll.schema.collection import Collection, collection_name, policy_of
from atoll.schema.declaration import has_rules
from atoll.schema.exact import (
    check_digits,
    check_zones,
    decode_exactly,
    exact_validator,
    may_lose_digits,
    model_validator,
    same_value,
)
from atoll.schema.fields import (
    INT_MAX,
    INT_MIN,
    SPELLED,
    element_type_of,
    is_unique,
    lattice_of,
    marker_of,
    one_spelling,
    unique_of,
)
from atoll.schema.forms import FieldForm, encode_json
from atoll.schema.limits import (
    Limits,
    check_finite,
    check_members,
    check_size,
    check_text,
    count_of,
    validate_key,
)
from atoll.schema.policy import Policy
from atoll.schema.problems import request_error, unknown_field
from atoll.schema.references import Referrer, Referring, referring

if TYPE_CHECKING:
    from atoll.lattices.base import Lattice

_NUMBERS = frozenset({"int", "any", "json"})
_ANYTHING = frozenset({"any", "json"})
_NESTED = frozenset({"model", "dataclass", "typed-dict"})
_SCALARS = frozenset(
    {"bool", "date", "datetime", "decimal", "default", "float", "int", "nullable", "str", "uuid"}
)
_TIGHT = _SCALARS | {"bytes", "dict", "enum", "list", "literal", "none", "set", "time", "timedelta", "tuple"}
_KEY = {"key"}
_LARGE_BYTES = 16 << 10
_current_key: ContextVar[str] = ContextVar("atoll_key", default="")
_decode: Callable[[bytes], Any] = msgspec.json.Decoder().decode


@dataclass(frozen=True, slots=True, eq=False)
class CollectionSchema:
    """One collection. Made by `compile_collection`; nothing of it ever changes, so it can be shared."""

    name: str
    """In URLs, tables and journal entries."""
    model: type[Collection]
    policy: Policy
    fields: tuple[str, ...]
    """All fields but the key, in declaration order."""
    plain: tuple[str, ...]
    lattices: Mapping[str, Lattice[Any]]
    maps: tuple[str, ...]
    unique: tuple[str, ...]
    """Fields of which no two documents have the same value."""
    manual: frozenset[str]
    """Those of them whose duplicates wait for a person."""
    references: tuple[Referring, ...]
    """Fields that name documents of other collections."""
    has_rules: bool
    """The team has validators of its own. They see whole documents only, so the outcome of an update has to
    go through `parse_object`, and its result is what is stored."""
    limits: Limits
    body_model: type[Collection]
    """Twin of `model` for documents whose key is known from elsewhere."""
    forms: Mapping[str, FieldForm]
    elements: Mapping[str, FieldForm]
    """What sets, lists and maps hold."""
    _numbers: bool
    _anything: bool
    _nested_anything: bool
    """Nested models write undeclared infinities as null, going by their own configuration."""
    _integers: tuple[str, ...] | None
    """The fields that may hold integers, where no field can nest: nothing else needs a look at the text then."""
    _exact: bool
    """All fields hold single values, and these come out of JSON as they went in, to the bit."""
    _rounds: bool
    """There are decimals or durations, of which digits may be lost."""
    _loose: tuple[str, ...]
    """Fields whose Python values JSON may change, such as `Any`, a pattern, or a model where a subclass is given."""
    _foreign_code: bool
    """Validators or serializers of the team's own take part."""
    _zoned: tuple[str, ...]
    """Fields that may hold times with a zone."""
    _validate_json: Callable[..., Collection]
    _validate_large: Callable[..., Collection]
    """Reports fewer of the failures."""
    _validate_python: Callable[..., Collection]
    _read: Callable[..., Collection]
    """What is stored, key included, as leniently as the model itself."""
    _to_json: Callable[[Collection], bytes]
    referrers: tuple[Referrer, ...] = ()
    """Fields of all collections that name documents of this one; known once all are compiled."""
    _described: list[dict[str, Any]] = dataclasses.field(init=False, repr=False, default_factory=list)

    @property
    def escrowed(self) -> bool:
        """Whether regions hold rights in its bounded counters."""
        return not self.policy.by_quorum and any(
            lattice.kind == "bounded_counter" for lattice in self.lattices.values()
        )

    def canonical(self, body: bytes, key: str = "", *, own: bool = False, sized: bool = True) -> bytes:
        """Check a whole document and return it as compact JSON text: declared order, defaults filled in.

        `key` is only for the team's own validators. `own` text was written by this process. One that is not
        `sized` may be larger than is allowed, since merging made it so. Raises
        MalformedRequest, TooLarge, UnknownField or InvalidDocument; nothing else, whatever the bytes.
        """
        return self._checked(body, key, own=own, sized=sized)[1]

    def _checked(self, body: bytes, key: str, *, own: bool, sized: bool = True) -> tuple[Collection, bytes]:
        """As `canonical`, with the model that it was read into."""
        if sized and len(body) > self.limits.document_bytes:
            check_size(body, self.limits, self.name)
        if self.has_rules:
            _current_key.set(key)
        try:
            validate = self._validate_json if len(body) <= _LARGE_BYTES else self._validate_large
            document = validate(body, strict=True, extra="forbid")
        except ValidationError as error:
            raise request_error(error, self.name, self.fields) from None
        except Exception as error:
            raise self._foreign(error) from error
        given = document.__pydantic_fields_set__
        if "key" in given:
            raise InvalidDocument(f"{self.name}: the key is in the URL; omit it from the document")
        try:
            text = self._to_json(document)
        except PydanticSerializationError as error:
            raise InvalidDocument(f"{self.name}: {error}") from None
        if not own and count_of(b":", body) != len(given) and not self._has_all_once(given, body, text):
            check_members(body)
        if self._integers is None or not self._in_range(document):
            check_text(text, self.limits, self.name, numbers=self._numbers, anything=self._anything)
        if self._nested_anything and b"null" in text:
            check_finite(body, self.name)
        if self._rounds and may_lose_digits(body):
            check_digits(decode_exactly(body), _decode(text), self.name)
        if self._foreign_code:
            self._check_stable(text)
        return document, text

    def _foreign(self, error: Exception) -> Exception:
        """What to raise for an error that is not pydantic's."""
        if not self._foreign_code:
            return error
        return InvalidDocument(
            f"{self.name}: a validator of the collection raised {type(error).__name__}: {error}"
        )

    def _check_stable(self, text: bytes) -> None:
        """Raise InvalidDocument where the team's own validators, or serializers, make another text of their own."""
        try:
            again = self._to_json(self._validate_json(text, strict=True, extra="forbid"))
        except Exception as error:
            raise InvalidDocument(
                f"{self.name}: a validator of the collection refuses what it returned itself ({error}); correct it"
            ) from error
        if again != text:
            raise InvalidDocument(
                f"{self.name}: a validator of the collection changes what it returned itself, so the document would"
                " change whenever it is read; correct it"
            )

    def _has_all_once(self, given: set[str], body: bytes, text: bytes) -> bool:
        """Whether no member can be given twice: the document has all fields, and no more colons than these have.

        Values of these kinds come to have no more colons than they had, unless one was escaped.
        """
        all_kept = self._exact and not self._foreign_code and len(given) == len(self.fields)
        escaped = b"\\" in body and b"\\u003" in body
        return all_kept and not escaped and count_of(b":", body) == count_of(b":", text)

    def _in_range(self, document: Collection) -> bool:
        """Whether integers, where no field can nest, have 64 bits."""
        assert self._integers is not None
        for name in self._integers:
            value = getattr(document, name)
            if isinstance(value, int) and not INT_MIN <= value <= INT_MAX:
                return False
        return True

    def parse(self, body: bytes, key: str = "") -> dict[str, Any]:
        """As `canonical`, as plain JSON data. A mergeable field that was not given has its default."""
        document: dict[str, Any] = _decode(self.canonical(body, key))
        return document

    def parse_object(
        self, document: Mapping[str, Any], key: str = "", *, sized: bool = True
    ) -> dict[str, Any]:
        """As `parse`, from plain JSON data."""
        body = encode_json(dict(document), self.name).encode()
        parsed: dict[str, Any] = _decode(self.canonical(body, key, own=True, sized=sized))
        if self._rounds:
            check_digits(document, parsed, self.name)
        return parsed

    def form_of(self, instance: Collection) -> tuple[bytes, Collection | None]:
        """As `from_model`; and, where that is quickly had, the model that is stored by this text.

        Single values alone need not go through JSON to be checked: what they are is all that they are.
        """
        if not self._exact or self.has_rules or instance.__class__ is not self.model:
            return self.from_model(instance), None
        try:
            stored = self._validate_python(instance.__dict__, strict=True)
            text = self.model.__pydantic_serializer__.to_json(stored, exclude=_KEY)
        except (ValidationError, PydanticSerializationError):
            return self.from_model(instance), None  # by its text it may fit, and if not this knows why
        if len(text) > self.limits.document_bytes or not self._in_range(stored):
            return self.from_model(instance), None
        return text, stored

    def from_model(self, instance: Collection) -> bytes:
        """Canonical text of a model instance, without its key. Raises as `canonical` does.

        It is checked anew: assignments may have put in what the declaration does not allow.
        """
        if not isinstance(instance, self.model):
            raise InvalidDocument(f"{self.name}: a {type(instance).__name__} is no {self.model.__name__}")
        for name in self._zoned:
            check_zones(getattr(instance, name), f"{self.name}.{name}")
        try:
            text = instance.__pydantic_serializer__.to_json(instance, exclude={"key"}, warnings=False)
        except PydanticSerializationError as error:
            raise InvalidDocument(f"{self.name}: {error}") from None
        document, text = self._checked(text, instance.key, own=True)
        if self._loose:
            self._check_same(instance, document, text)
        return text

    def _check_same(self, instance: Collection, document: Collection, text: bytes) -> None:
        """Raise InvalidDocument where `document`, read from its text, has another value than the instance has."""
        if self._foreign_code:  # it may lawfully change what was assigned
            with suppress(Exception):
                instance = self._validate_python(instance.__dict__, strict=True)
        for name in self._loose:
            held, read = getattr(instance, name), getattr(document, name)
            if same_value(held, read):
                continue
            again = getattr(self._validate_json(text, strict=True, extra="forbid"), name)
            if same_value(read, again):  # or else the type has no equality
                raise InvalidDocument(
                    f"{self.name}.{name}: {held!r:.200} would come back as {read!r:.200}; declare the type that it has"
                )

    def document_of(self, instance: Collection) -> dict[str, Any]:
        """As `from_model`, as plain JSON data."""
        document: dict[str, Any] = _decode(self.from_model(instance))
        return document

    def to_model(self, key: str, value: bytes) -> Collection:
        """The model of a stored document.

        Fields that a newer schema has added are left out. Raises InvalidDocument when it still does not fit.
        """
        plain = key.isascii() and key.isprintable() and '"' not in key and "\\" not in key
        head = b'{"key":' + (f'"{key}"' if plain else json.dumps(key)).encode()
        rest = value.strip()[1:]
        text = head + (b"}" if rest[:1] == b"}" else b"," + rest)
        validate = self._read
        try:
            return validate(text)
        except ValidationError as error:
            unknown = {
                item["loc"][0] for item in error.errors() if item["type"] == "extra_forbidden" and item["loc"]
            }
            known = {name: member for name, member in _decode(value).items() if name not in unknown}
        try:
            return validate(json.dumps({**known, "key": key}))
        except ValidationError as error:
            raise request_error(error, self.name, self.fields) from None

    def validate_field(self, name: str, value: Any) -> Any:
        """The value of one field as stored, from plain JSON data. Raises UnknownField, InvalidDocument."""
        form = self.forms.get(name)
        if form is None:
            raise unknown_field(name, self.name, self.fields)
        return form.check(value, self.limits)

    def validate_element(self, field: str, value: Any) -> Any:
        """An element of a set or list, as stored. Raises UnknownField, InvalidOperation, InvalidDocument."""
        return self._element_form(field, "elements").check(value, self.limits)

    def validate_elements(self, field: str, values: list[Any]) -> list[Any]:
        """Elements of a set or list, as stored. Raises UnknownField, InvalidOperation, InvalidDocument."""
        return self._element_form(field, "elements").check_all(values, self.limits)

    def validate_map_value(self, field: str, value: Any) -> Any:
        """A member of a map, as stored. Raises UnknownField, InvalidOperation, InvalidDocument."""
        return self._element_form(field, "members").check(value, self.limits)

    def validate_map(self, field: str, members: Mapping[str, Any]) -> dict[str, Any]:
        """All members of a map, as stored. Raises UnknownField, InvalidOperation, InvalidDocument."""
        stored = self._element_form(field, "members").check_all(list(members.values()), self.limits)
        return dict(zip(members, stored, strict=True))

    def default_of(self, name: str) -> Any:
        """What `$unset` leaves. Raises UnknownField; InvalidOperation when the field is required."""
        form = self.forms.get(name)
        if form is None:
            raise unknown_field(name, self.name, self.fields)
        return form.default(self.limits)

    def validate_key(self, key: str) -> str:
        """Return `key`, or raise InvalidKey saying what to change."""
        return validate_key(key, self.limits)

    def json_schema(self, ref_template: str = "#/$defs/{model}") -> dict[str, Any]:
        """JSON Schema of the document as sent: without its key."""
        schema = self.body_model.model_json_schema(mode="validation", ref_template=ref_template)
        schema.get("properties", {}).pop("key", None)
        return schema

    def describe(self) -> dict[str, Any]:
        """What regions must agree on, as plain JSON data. It is the same object each time: making it takes long."""
        if not self._described:
            self._described.append(self._describe())
        return self._described[0]

    def _describe(self) -> dict[str, Any]:
        kinds = {name: lattice.kind for name, lattice in self.lattices.items()} | dict.fromkeys(
            self.maps, "map"
        )
        schema = self.json_schema()
        # What most collections lack is left out: a digest of it must stay what it was.
        unique = {"unique": [*self.unique, sorted(self.manual)]} if self.unique else {}
        references = {"references": [list(each) for each in self.references]} if self.references else {}
        return {
            **unique,
            **references,
            "name": self.name,
            "policy": self.policy.describe(),
            "fields": [[name, kinds.get(name, "plain")] for name in self.fields],
            "bounds": {
                name: repr(lattice) for name, lattice in self.lattices.items() if kinds[name][:7] == "bounded"
            },
            "schema": _without_prose(
                {name: schema.get(name) for name in ("properties", "required", "$defs")}
            ),
        }

    def _element_form(self, field: str, what: str) -> FieldForm:
        form = self.elements.get(field)
        if form is None:
            if field not in self.forms:
                raise unknown_field(field, self.name, self.fields)
            raise InvalidOperation(f"{self.name}.{field} has no {what}; write the whole field with $set")
        return form


def compile_collection(model: type[Collection], limits: Limits | None = None) -> CollectionSchema:
    """Work out a declared collection; its declaration was checked where it stands."""
    forms, name = dict(model.__atoll_forms__), collection_name(model)
    lattices: dict[str, Lattice[Any]] = {}
    maps: list[str] = []
    elements: dict[str, FieldForm] = {}
    for field in forms:
        info = model.model_fields[field]
        marker = marker_of(info)
        if marker is None:
            continue
        lattice = lattice_of(marker)
        if lattice is None:
            maps.append(field)
        else:
            lattices[field] = lattice
        if marker.kind in ("set", "list", "map"):
            elements[field] = _element_form(
                f"{name}.{field}", element_type_of(info), marker.kind, model.model_config
            )
    kinds_of = {field: form.node_types() for field, form in forms.items()}
    kinds = frozenset().union(*kinds_of.values())
    single = kinds <= _SCALARS and not any(form.has_serializer() for form in forms.values())
    ruled = has_rules(model)
    body = _without_key(model)
    return CollectionSchema(
        name=name,
        model=model,
        policy=policy_of(model),
        fields=tuple(forms),
        plain=tuple(field for field in forms if field not in lattices and field not in maps),
        lattices=lattices,
        maps=tuple(maps),
        unique=tuple(field for field in forms if is_unique(model.model_fields[field])),
        manual=frozenset(field for field in forms if _waits(model.model_fields[field])),
        references=_references(model, forms),
        has_rules=ruled,
        limits=limits or Limits(),
        body_model=body,
        forms=forms,
        elements=elements,
        _numbers=bool(kinds & _NUMBERS),
        _anything=bool(kinds & _ANYTHING),
        _nested_anything=bool(kinds & _NESTED and kinds & _ANYTHING),
        _integers=tuple(field for field, found in kinds_of.items() if "int" in found) if single else None,
        _exact=single and "datetime" not in kinds,
        _rounds=bool(kinds & {"decimal", "timedelta"}),
        _loose=tuple(
            field
            for field, form in forms.items()
            if kinds_of[field] - _TIGHT or (form.has_serializer() and field not in lattices)
        ),
        _foreign_code=ruled or any(form.foreign_code for form in forms.values()),
        _zoned=tuple(field for field, found in kinds_of.items() if found & {"datetime", "time"}),
        _validate_json=exact_validator(body).validate_json,
        _validate_large=exact_validator(body, fail_fast=True).validate_json,
        _validate_python=exact_validator(model).validate_python,
        _read=model_validator(model).validate_json,
        _to_json=body.__pydantic_serializer__.to_json,
    )


def _references(model: type[Collection], fields: Iterable[str]) -> tuple[Referring, ...]:
    found = (referring(model.__name__, field, model.model_fields[field]) for field in fields)
    return tuple(each for each in found if each is not None)


def _waits(info: FieldInfo) -> bool:
    """Whether duplicates of the field wait for a person."""
    unique = unique_of(info)
    return (
        unique is not None
        and (unique.duplicates or ("manual" if info.is_required() else "clear")) == "manual"
    )


def _element_form(where: str, element: Any, kind: str, config: ConfigDict) -> FieldForm:
    form = FieldForm.of_type(where, element, config)
    if kind != "set" or not form.node_types() & SPELLED:
        return form
    return FieldForm.of_type(where, Annotated[element, AfterValidator(one_spelling)], config)


def _key_in_context() -> str:
    return _current_key.get()


def _without_key(model: type[Collection]) -> type[Collection]:
    """A subclass of `model`, so that the team's validators hold, which takes its key from the context."""

    class Body(model):  # type: ignore[valid-type,misc]
        __atoll_body__: ClassVar[bool] = True
        key: str = Field(default_factory=_key_in_context, exclude=True)

    Body.__name__ = Body.__qualname__ = model.__name__
    Body.__doc__ = model.__doc__
    Body.model_rebuild(force=True)
    return Body


def _without_prose(schema: Any) -> Any:
    """Titles and descriptions say nothing that regions could disagree on."""
    if isinstance(schema, dict):
        return {
            name: {field: _without_prose(inner) for field, inner in value.items()}
            if name in ("properties", "$defs") and isinstance(value, dict)
            else _without_prose(value)
            for name, value in schema.items()
            if name not in ("title", "description", "examples")
        }
    if isinstance(schema, list):
        return [_without_prose(item) for item in schema]
    return schema
