"""A team's own merge functions, as a region calls them."""

from __future__ import annotations

from functools import partial

from atoll.conflicts.guard import guarded
from atoll.documents.rules import plain_text
from atoll.documents.strategies import Resolver
from atoll.region.options import RegionOptions
from atoll.schema.application import CollectionSchema


def resolver_of(schema: CollectionSchema, options: RegionOptions) -> Resolver | None:
    """That of a collection, guarded; None where it has none."""
    function = schema.policy.resolver
    return None if function is None else guarded(function, partial(plain_text, schema), options.guard)
