"""What a collection's class statement may not say, each with its reason and a way out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from inspect import get_annotations
from typing import TYPE_CHECKING

from pydantic import ConfigDict
from pydantic.errors import PydanticUndefinedAnnotation, PydanticUserError
from pydantic.fields import FieldInfo

from atoll.errors import DeclarationError, InvalidDocument, InvalidOperation
from atoll.schema.fields import (
    SPELLED,
    Bound,
    Mergeable,
    element_type_of,
    is_unique,
    marker_of,
    nested_marker,
    nested_unique,
    unique_of,
)
from atoll.schema.forms import CONFIG, FieldForm
from atoll.schema.kept import Form, check_kept
from atoll.schema.limits import Limits
from atoll.schema.placement import HomeRegion
from atoll.schema.policy import Policy
from atoll.schema.problems import meant
from atoll.schema.references import check_reference

if TYPE_CHECKING:
    from atoll.schema.collection import Collection

FIELD_NAME = re.compile(r"[^\W_]\w{0,63}")
_COUNTERS = frozenset({"counter", "bounded_counter"})
_CONTAINERS = frozenset(
    {"list", "dict", "set", "frozenset", "tuple", "model", "dataclass", "typed-dict", "any", "json"}
)
_NUMBERS = frozenset({"bool", "decimal", "float", "int"})
_UNORDERED = frozenset({"set", "frozenset"})
_SINGLE = frozenset(
    {
        "str",
        "int",
        "float",
        "bool",
        "decimal",
        "date",
        "time",
        "datetime",
        "timedelta",
        "uuid",
        "enum",
        "literal",
        "url",
    }
    | {
        "bytes",
        "nullable",
        "none",
        "union",
        "function-after",
        "function-before",
        "function-wrap",
        "function-plain",
    }
    | {
        "multi-host-url",
        "lax-or-strict",
        "json-or-python",
        "chain",
        "definitions",
        "definition-ref",
        "is-instance",
    }
)
"""Types of a set's elements: values that compare by content and hash."""


def build_forms(model: type[Collection]) -> dict[str, FieldForm]:
    """A form for every field but the key. Raises DeclarationError for a type that JSON cannot carry."""
    where = model.__name__
    fields = {name: info for name, info in model.model_fields.items() if name != "key"}
    for name, info in fields.items():
        if nested := nested_marker(info.annotation):
            raise DeclarationError(
                f"{where}.{name}: a {nested.kind} inside another type cannot be merged; make it the field's"
                " whole type, without None or a container around it"
            )
    unfit: PydanticUserError | None = None
    try:
        model.model_rebuild(force=True)
    except PydanticUndefinedAnnotation as error:
        raise DeclarationError(
            f"{where}: {error.name!r} is not defined; declare it before {where}"
        ) from error
    except PydanticUserError as error:
        unfit = error  # most likely a field's fault, and its form will tell which
    config = model.model_config
    forms = {name: _form(f"{where}.{name}", model.model_fields[name], config) for name in fields}
    if unfit is not None:
        raise DeclarationError(f"{where}: {_first_line(unfit)}") from unfit
    return forms


def has_rules(model: type[Collection]) -> bool:
    """Whether code of the team's own sees whole documents when they are read."""
    rules = model.__pydantic_decorators__
    own = model.__pydantic_custom_init__ or model.__pydantic_post_init__
    return bool(rules.field_validators or rules.model_validators or own)


def check_declaration(
    model: type[Collection], policy: Policy, forms: Mapping[str, FieldForm], *, abstract: bool
) -> None:
    """Raises DeclarationError. A shared base (`abstract`) may lack what its subclasses will add."""
    where = model.__name__
    _check_model(model, where)
    for name, info in model.model_fields.items():
        if name != "key":
            _check_field(f"{where}.{name}", name, info, forms[name])
    if has_rules(model):
        check_kept(Form.of(where, model, model.__pydantic_validator__))
    if not abstract:
        _check_policy(model, policy, where)
        for name in policy.indexes:
            _check_index(model, forms, name, where)
        for name, info in model.model_fields.items():
            _check_duplicates(f"{where}.{name}", policy, info)


def _check_index(model: type[Collection], forms: Mapping[str, FieldForm], name: str, where: str) -> None:
    if name not in forms:
        raise DeclarationError(f"{where}: indexes names {name!r}, which is not a field; {meant(name, forms)}")
    marker = marker_of(model.model_fields[name])
    if (marker is not None and marker.kind not in _COUNTERS) or forms[name].node_types() & _CONTAINERS:
        raise DeclarationError(
            f"{where}.{name}: an index needs single values such as str or int, and this field holds several;"
            " remove it from indexes"
        )


def _form(where: str, info: FieldInfo, config: ConfigDict) -> FieldForm:
    try:
        form = FieldForm.of_field(where, info, config)
        form.model.model_json_schema(mode="validation")
        form.model.model_json_schema(mode="serialization")
    except PydanticUserError as error:
        raise DeclarationError(
            f"{where}: JSON cannot represent its type ({_first_line(error)}) Use types such as str, int, float,"
            " bool, datetime, list, dict, or a pydantic model of them."
        ) from error
    return form


def _first_line(error: PydanticUserError) -> str:
    return error.message.partition("\n")[0]


def _check_model(model: type[Collection], where: str) -> None:
    for base in model.__mro__:
        if base.__name__ == "Collection" and base.__module__ == "atoll.schema.collection":
            break
        if "key" in get_annotations(base):
            raise DeclarationError(
                f"{where}.key: every document already has its key, a string; remove the field"
            )
    for option, value in CONFIG.items():
        if model.model_config.get(option, value) != value:
            raise DeclarationError(
                f"{where}: model_config sets {option}, which would let regions differ on a document; drop it"
            )
    if model.__private_attributes__:
        name = next(iter(model.__private_attributes__))
        raise DeclarationError(
            f"{where}.{name}: a name with a leading underscore is never stored; drop the underscore"
        )
    rules = model.__pydantic_decorators__
    for kind, found in (
        ("computed_field", rules.computed_fields),
        ("field_serializer", rules.field_serializers),
        ("model_serializer", rules.model_serializers),
    ):
        if found:
            raise DeclarationError(
                f"{where}.{next(iter(found))}: what is stored is the fields' own JSON form,"
                f" so a {kind} has no place; use a property or a method"
            )
    for name, validator in rules.field_validators.items():
        if "key" in validator.info.fields:
            raise DeclarationError(
                f"{where}.{name}: a field_validator cannot see the key, which is not part of the document;"
                " use a model_validator"
            )


def _check_field(where: str, name: str, info: FieldInfo, form: FieldForm) -> None:
    if not FIELD_NAME.fullmatch(name):
        raise DeclarationError(
            f"{where}: a field's name has letters, digits and _, starts with a letter, and is at most 64 long"
        )
    if info.alias is not None or info.validation_alias is not None or info.serialization_alias is not None:
        raise DeclarationError(
            f"{where}: an alias gives one field two names; give the field itself that name"
        )
    if info.exclude or info.exclude_if is not None:
        raise DeclarationError(
            f"{where}: exclude=True would keep it from being stored; drop it, or drop the field"
        )
    marker = marker_of(info)
    kinds = form.node_types()
    if isinstance(marker, Mergeable) and marker.kind == "set":
        form_of_element = FieldForm.of_type(where, element_type_of(info))
        elements = form_of_element.node_types()
        if forked := elements - _SINGLE:
            raise DeclarationError(
                f"{where}: elements of a set are single values such as str or int, not {min(forked)};"
                " use ListOf, or MapOf with a key for each"
            )
        if len(numbers := sorted((elements | form_of_element.literal_types()) & _NUMBERS)) > 1:
            raise DeclarationError(
                f"{where}: {numbers[0]} and {numbers[1]} have equal values that differ in JSON, such as 1, 1.0 and"
                " true, and a set cannot hold both; declare one of them, or use ListOf"
            )
    elif unordered := kinds & _UNORDERED:
        raise DeclarationError(
            f"{where}: a {min(unordered)} has no order, so equal documents would not be equal text;"
            " use SetOf[…] as the field's whole type, or list[…]"
        )
    if isinstance(marker, Bound) and marker.split not in ("equal", "creator"):
        raise DeclarationError(f'{where}: Bound(split={marker.split!r}) is unknown; use "equal" or "creator"')
    check_reference(where, info)
    _check_unique(where, info, form)
    _check_default(where, info, marker, form)
    check_kept(Form.of(where, form.model, form.validator))


def _check_unique(where: str, info: FieldInfo, form: FieldForm) -> None:
    if nested_unique(info.annotation):
        raise DeclarationError(
            f"{where}: unique=True stands inside its type, and only a field of the document itself can be unique;"
            " write it for the whole field, or make what is inside a field of its own"
        )
    if not is_unique(info):
        return
    if marker_of(info) is not None:
        raise DeclarationError(f"{where}: a mergeable field cannot be unique; make it a plain one")
    if several := form.node_types() & (_CONTAINERS | _UNORDERED):
        raise DeclarationError(
            f"{where}: a unique field holds a single value such as str or int, not {min(several)}"
        )
    if spelled := form.node_types() & (SPELLED | {"timedelta"}):
        raise DeclarationError(
            f"{where}: equal values of {min(spelled)} may be written differently, so it cannot be unique; use str"
        )
    if info.default_factory is not None or not (info.is_required() or info.default is None):
        raise DeclarationError(
            f"{where}: a default would be the value of many documents; make the unique field required, or None by"
            " default"
        )


def _check_duplicates(where: str, policy: Policy, info: FieldInfo) -> None:
    unique = unique_of(info)
    if unique is None:
        return
    if policy.consistency == "strong" and (policy.writes_when_cut_off or not policy.by_quorum):
        raise DeclarationError(
            f'{where}: a strong collection with placement, "escrow" or "eventual" cannot keep it unique; drop these, or'
            " choose another consistency"
        )
    if unique.duplicates is None:
        return
    if unique.duplicates not in ("clear", "manual"):
        raise DeclarationError(
            f'{where}: duplicates={unique.duplicates!r} is unknown; use "clear" or "manual"'
        )
    if policy.by_quorum:
        raise DeclarationError(f"{where}: a strong collection has no duplicates; drop duplicates=")
    if unique.duplicates == "clear" and info.is_required():
        raise DeclarationError(
            f'{where}: duplicates="clear" needs a field that may be None; give it the default None, or use "manual"'
        )


def _check_default(where: str, info: FieldInfo, marker: Mergeable | Bound | None, form: FieldForm) -> None:
    if info.is_required():
        return
    if info.default_factory is not None:
        return  # may have effects, so it is not called here
    if isinstance(marker, Bound) and isinstance(info.default, int) and info.default < marker.minimum:
        raise DeclarationError(
            f"{where}: its default {info.default} is below its bound {marker.minimum};"
            f" write `= {marker.minimum}` or more, or lower the bound with Bound(minimum=…)"
        )
    try:
        form.default(Limits())
    except (InvalidDocument, InvalidOperation) as error:
        raise DeclarationError(
            f"{where}: its default {info.default!r} does not fit its type: {error}"
        ) from error


def _check_policy(model: type[Collection], policy: Policy, where: str) -> None:
    fields = model.model_fields
    if policy.fallback == "escrow" and not any(
        isinstance(marker_of(info), Bound) for info in fields.values()
    ):
        raise DeclarationError(
            f'{where}: fallback="escrow" needs a bounded counter, and there is none;'
            " declare one as BoundedCounter, or drop the fallback"
        )
    if policy.writes_when_cut_off and (merged := [n for n, info in fields.items() if marker_of(info)]):
        raise DeclarationError(
            f'{where}: fallback="eventual" accepts whole documents, of which one is kept, and {", ".join(merged)} would'
            ' be merged; declare plain fields only, or use fallback="escrow" for bounded counters'
        )
    if isinstance(policy.placement, HomeRegion):
        home = policy.placement.field
        if home not in fields or home == "key":
            raise DeclarationError(
                f'{where}: home_region("{home}") names no field; add `{home}: str`, for a region\'s name'
            )
        if fields[home].annotation is not str or marker_of(fields[home]) is not None:
            raise DeclarationError(
                f'{where}: home_region("{home}") needs a plain string; declare `{home}: str`'
            )
