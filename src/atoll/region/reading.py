"""What a read asks for, where it is answered and what it waits for, and what it gets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from atoll.errors import InvalidOperation
from atoll.schema.application import CollectionSchema
from atoll.schema.policy import Consistency
from atoll.store.port import Condition, Row


class ReadOptions(NamedTuple):
    consistency: Consistency | None = None
    """`eventual`, `session`, `causal`, `bounded` or `strong`; None is the collection's own."""
    token: Mapping[str, int] | None = None
    """What the session has seen."""
    max_staleness_s: float | None = None
    max_wait_s: float | None = None


PLAIN_READ = ReadOptions()
"""The collection's own consistency, and no session."""


class Reading(NamedTuple):
    value: bytes | None
    """The document as JSON text; None when absent."""
    version: str
    region: str
    """Which region answered."""
    vector: Mapping[str, int]
    """What that region had seen."""
    degraded: str | None = None
    """Why this is weaker than the collection's policy; None when it is not."""


class ListOptions(NamedTuple):
    """Which documents of a collection, in key order."""

    prefix: str = ""
    where: Sequence[Condition] = ()
    after: str | None = None
    """The key after which the page begins."""
    limit: int = 100


FIRST_PAGE = ListOptions()


class Listing(NamedTuple):
    """A page of a collection, as this region shows it."""

    rows: Sequence[tuple[str, Row]]
    more: bool
    """Whether documents come after the page."""
    vector: Mapping[str, int]
    """What the region had seen at the moment that the rows are of."""
    degraded: str | None = None


@dataclass(frozen=True, slots=True)
class Here:
    """In this region, at once; or once it is no staler than `bound_s`, where a bound is given."""

    bound_s: float | None = None
    degraded: str | None = None
    """Why the answer is weaker than the collection's policy; None if it is not."""
    stale_allowed: bool = False
    """Whether an answer past the bound is served and named so, instead of refused."""


@dataclass(frozen=True, slots=True)
class WaitFor:
    """Once this region has seen the session's token, as `here` says; or in a region that has seen it."""

    here: Here


@dataclass(frozen=True, slots=True)
class AtOwner:
    """In the region that orders the writes of the document."""


@dataclass(frozen=True, slots=True)
class ByQuorum:
    """What a majority of regions has decided last."""


@dataclass(frozen=True, slots=True)
class InTotal:
    """What all regions together have of it: they write without asking each other."""


ReadPlan = Here | WaitFor | AtOwner | ByQuorum | InTotal
AT_ONCE = Here()
ONCE_SEEN = WaitFor(AT_ONCE)
_AT_OWNER = AtOwner()
_BY_QUORUM = ByQuorum()
_IN_TOTAL = InTotal()
CAUSAL_LISTING = "causal listing"
"""No region orders the writes of a whole collection: a listing is as good as a causal one."""


def plan_read(schema: CollectionSchema, options: ReadOptions, *, listing: bool = False) -> ReadPlan:
    """Raises InvalidOperation for a level that the collection cannot give."""
    policy = schema.policy
    level = options.consistency or policy.consistency
    degraded = None
    if level == "strong":
        if listing:
            degraded = CAUSAL_LISTING
        elif policy.consistency != "strong":
            raise InvalidOperation(
                f"collection {schema.name!r} is declared {policy.consistency}: its writes have no global order that a "
                'strong read could see; declare it with consistency="strong"',
                collection=schema.name,
            )
        elif policy.fallback == "escrow":
            return _IN_TOTAL
        else:
            return _BY_QUORUM if policy.by_quorum else _AT_OWNER
    bound_s = _bound_s(schema, options, level)
    if bound_s is None and degraded is None:
        here = AT_ONCE
    else:
        here = Here(bound_s, degraded, stale_allowed=policy.reads_when_cut_off)
    if level == "eventual" or not options.token:
        return here
    return ONCE_SEEN if here is AT_ONCE else WaitFor(here)


def _bound_s(schema: CollectionSchema, options: ReadOptions, level: Consistency) -> float | None:
    if options.max_staleness_s is not None or level != "bounded":
        return options.max_staleness_s
    if schema.policy.max_staleness_s is None:
        raise InvalidOperation(
            f"consistency=bounded needs max_staleness, the bound in seconds: {schema.name!r} declares none"
        )
    return schema.policy.max_staleness_s
