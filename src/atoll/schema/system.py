"""System collections: Atoll's own replicated data, declared as a team declares its own.

They are part of every application. So replication, audit, snapshots, backups, digests and the simulator treat them
like all others. The interface does not show them: `Application.collections` holds the team's, `Application.stored`
holds both. Their names begin with an underscore, which no declared name may.

To add one: declare it here with `system=True`, list it in `SYSTEM`, and give it a route of its own.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from atoll.schema.collection import Collection
from atoll.schema.compiled import CollectionSchema, compile_collection
from atoll.schema.fields import MapOf

EVENTS = "_events"
SAGAS = "_sagas"
RIGHTS = "_rights"
STEPS = "_steps"
CLAIMS = "_unique"
HOLDERS = "_holders"
DANGLING = "_dangling"
DELETED = "_deleted"
REFERRED = "_referred"
MARKS = "_counted"
BUILDS = "_builds"
HEIRS = "_heirs"
SEALS = "_seals"


class Event(Collection, name=EVENTS, system=True):
    """Something that happened to the deployment. Written once, and never changed.

    Its key is its place in the timeline. `kind` is a string here, and not a closed set: a later version may have
    more kinds, and a region shows those too.
    """

    kind: str
    """Such as `region-started` or `link-down`."""
    region: str
    """Where it was noticed."""
    node: str = ""
    """Which node of the region noticed it; empty where the region has one."""
    peer: str = ""
    """The other region that it concerns; empty for none."""
    at_ms: int
    """When it happened, by the node's clock (unix milliseconds). It may have been written later."""
    detail: str = ""
    """For people."""
    count: int = 1
    """How many occurrences of the same kind this event stands for."""
    left_out: int = 0
    """How many events the node has left out since the one before, because too many came at once."""


class SagaDocument(Collection, name=SAGAS, system=True, indexes=["status"]):
    """A saga under way, or over. Its fields are the members of `sagas.instance.Instance`, which says what each means.

    Its key is `{saga}/{id}`. Statuses and causes are strings here: a later version may have more.
    """

    saga: str
    id: str
    home: str
    status: str
    step: str
    at: int
    backwards: bool
    attempts: int
    wake_ms: int
    since_ms: int
    started_ms: int
    before: str
    cause: str
    error: str
    fields: dict[str, Any]
    plan: list[str]
    done: list[dict[str, Any]]
    signals: dict[str, Any]
    heard: list[str]
    given: str
    nonce: str
    region: str
    epoch: int
    revision: int


class RunRight(Collection, name=RIGHTS, system=True, consistency="strong"):
    """Which region runs the sagas of a region: see `sagas.rights.Right`. Its key is `run/{region}`.

    Under `claim/{saga}/{id}`, which region has started a saga: its `holder`.
    """

    holder: str
    epoch: int
    beat: int
    wanted: str
    after: dict[str, int]
    doubts: list[str]


class StepMark(Collection, name=STEPS, system=True, consistency="strong"):
    """What became of a saga's step that is a transaction. It is written by that transaction.

    Its key names the step, as `sagas.instance.effect_key` does.
    """

    outcome: str
    """`done`; or `void`, if the step must not be done any more."""
    fields: dict[str, Any]
    """What the saga knew then."""


class Claim(Collection, name=CLAIMS, system=True, consistency="strong"):
    """Which document has a value of a unique field: see `consensus.claims`.

    Its key is `{collection}/{field}/{digest of the value}`.
    """

    holder: str
    """The document's key."""


class Holders(Collection, name=HOLDERS, system=True):
    """Which documents have a value of a unique field in an asynchronous collection: see `documents.unique`.

    Its key is `{collection}/{field}/{digest of the value}`.
    """

    holders: MapOf[dict[str, Any]]
    """The documents' keys, and what is said of each."""


class Dangling(Collection, name=DANGLING, system=True):
    """A reference of an asynchronous collection to what was deleted: see `documents.references.Met`.

    Its key is `{collection}/{field}/{digest of the document's key}`.
    """

    collection: str
    key_of: str
    field: str
    target: list[str]
    on_delete: str
    reference: dict[str, Any]
    deletion: dict[str, Any] | None
    reason: str


class Deleted(Collection, name=DELETED, system=True):
    """What a document of an asynchronous collection was when it was deleted, in case the deletion is undone.

    Its key is `{collection}/{digest of the document's key}`, and its fields are those of the document. It goes once
    every region has seen the deletion.
    """


class Referred(Collection, name=REFERRED, system=True, consistency="strong"):
    """How many strong documents refer to one: see `consensus.references`.

    Its key is `{collection}/{digest of the document's key}`.
    """

    counts: dict[str, int]
    """`collection.field` → how many."""


class ReferenceMark(Collection, name=MARKS, system=True, consistency="strong"):
    """Where the reference of a strong document is counted: see `consensus.references`.

    Its key is `{collection}/{field}/{digest of the document's key}`.
    """

    referrer: str
    """The document's key."""
    target: list[str]
    """Collection and key of what it refers to."""


class BuildDocument(Collection, name=BUILDS, system=True, consistency="strong"):
    """How far a field that was declared later has come: see `consensus.building.Build`.

    Its key is `unique/{collection}/{field}`, or `references/{collection}/{field}/{collection that it refers to}`.
    """

    generation: int
    state: str
    known: list[str]
    settled: dict[str, dict[str, int]]
    builder: str
    phase: int
    after: str | None
    looked: int
    conflicts: int
    has: dict[str, int]
    began_ms: int
    ended_ms: int


class Heir(Collection, name=HEIRS, system=True, consistency="strong"):
    """Who has the rights of a region that has left: see `membership.heirs`. Its key is the region's name."""

    uptos: list[int]
    heirs: list[str]
    """Both together are the spans of `membership.heirs.Span`."""


class SealDocument(Collection, name=SEALS, system=True):
    """How far a member has come of a region that has left: see `membership.heirs.Seal`.

    Its key is `{region that has left}/{member}`, and only the member writes it.
    """

    upto: int
    ends: dict[str, int]


SYSTEM: tuple[type[Collection], ...] = (
    Event,
    SagaDocument,
    RunRight,
    StepMark,
    Claim,
    Holders,
    Dangling,
    Deleted,
    Referred,
    ReferenceMark,
    BuildDocument,
    Heir,
    SealDocument,
)

RANKED = frozenset({SAGAS})
"""Collections of whose concurrent versions the one of the highest epoch and revision is shown: its fields say which."""

RECORDS = frozenset({HOLDERS, DANGLING})
"""Collections whose documents say what conflicts there are between documents of others."""

APPENDED = frozenset({EVENTS})
"""Collections whose documents are written once. The key of each is its place: see `causality.place`."""


@cache
def system_collections() -> dict[str, CollectionSchema]:
    """Compiled, by name. Do not change it."""
    return {schema.name: schema for schema in map(compile_collection, SYSTEM)}
