"""What a team declares: collections, their fields, placement and policy; and how documents are checked."""

from __future__ import annotations

from atoll.schema.application import Application, application_of
from atoll.schema.collection import Collection
from atoll.schema.compiled import CollectionSchema, compile_collection
from atoll.schema.fields import Bound, BoundedCounter, Counter, ListOf, MapOf, SetOf, Text, field
from atoll.schema.limits import Limits
from atoll.schema.loading import load_application
from atoll.schema.operations import Add, Append, Decrement, Increment, Operation, Remove, Splice
from atoll.schema.placement import (
    Everywhere,
    HomeRegion,
    KeyRanges,
    Placement,
    Tenants,
    home_region,
    key_ranges,
    tenants,
)
from atoll.schema.policy import Policy
from atoll.schema.references import Ref
from atoll.schema.saga import Abort, Retry, Saga, SagaSchema, step

__all__ = [
    "Abort",
    "Add",
    "Append",
    "Application",
    "Bound",
    "BoundedCounter",
    "Collection",
    "CollectionSchema",
    "Counter",
    "Decrement",
    "Everywhere",
    "HomeRegion",
    "Increment",
    "KeyRanges",
    "Limits",
    "ListOf",
    "MapOf",
    "Operation",
    "Placement",
    "Policy",
    "Ref",
    "Remove",
    "Retry",
    "Saga",
    "SagaSchema",
    "SetOf",
    "Splice",
    "Tenants",
    "Text",
    "application_of",
    "compile_collection",
    "field",
    "home_region",
    "key_ranges",
    "load_application",
    "step",
    "tenants",
]
