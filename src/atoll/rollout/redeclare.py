"""After a restart with other declarations: stored documents are shown as these say, and what had no place has one.

A rollout restarts one region after the other. Until all have the new declarations, an older region keeps what it
does not know, and passes it on unchanged. Registers stay in the document, everything else is parked. This pass is made
once a region knows more, or less, or something else. It runs beside the writes, a piece at a time. After a crash it
begins anew, since every step can be repeated.

Its mark in the store counts the steps. After a failover the database may lack the last of them, and counts fewer.
Then documents that the pass has been over may have their old form again. So it does not say that it is done, and
another pass is made.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Literal, NamedTuple

from atoll.commit.batch import Batch
from atoll.commit.work import Wants
from atoll.documents.entry import decode_entry
from atoll.errors import AtollError
from atoll.protocol import port
from atoll.schema.application import Application
from atoll.store.port import Parked, View

LOOKED_AFTER_S = 10.0
"""How often a region looks whether its documents still are all as it declares them."""
SHARE = 10
"""Of the time, one part at most goes into bringing documents under new declarations while others undo it."""
_REPORTED = 20_000
UNPARKED = ("redeclare", "unparked")
"""The state that counts the commits in which parked changes were tried again. A snapshot is of the time between two."""


class Redeclare(NamedTuple):
    """A step of a group commit: some of what a region holds is shown as its present declarations say."""

    collection: str = ""
    keys: tuple[str, ...] = ()
    """Documents to be shown as the present declarations say."""
    parked: tuple[Parked, ...] = ()
    """Changes to be tried again."""
    schemas: Mapping[str, str] = MappingProxyType({})
    """What to commit for them: see `Commit.schemas`."""
    instead_of: Mapping[str, str] = MappingProxyType({})
    """collection → what has to be said of it still, or else nothing is."""

    def want(self, wants: Wants) -> None:
        if self.parked:
            wants.states.append(UNPARKED)
        for parked in self.parked:
            wants.parked(parked)
        for key in self.keys:
            wants.document(self.collection, key)
        if self.keys:
            wants.open_records(self.collection, self.keys)

    def perform(self, batch: Batch, view: View) -> None:
        for parked in self.parked:
            batch.reapply(parked)
        if self.parked:
            batch.pending.states[UNPARKED] = b"%d" % (int(view.states.get(UNPARKED, 0)) + 1)
        for key in self.keys:
            address = (self.collection, key)
            batch.re_resolve(address, view.open_records.get(address, ()))
        for name, fingerprint in self.schemas.items():
            if name not in self.instead_of or view.schemas.get(name) == self.instead_of[name]:
                batch.pending.schemas[name] = fingerprint


class MarkMixed(NamedTuple):
    """A part of every transaction: it says of which collections not all documents follow one declaration.

    That is so once a node commits beside documents that all follow another declaration than its own. Whoever starts
    next, with these declarations or those, must find out. So the store names every collection that may have documents.
    """

    declared: Mapping[str, str]
    """collection → fingerprint of its declaration at this node; other nodes of the region may have others."""

    def want(self, wants: Wants) -> None:
        """Every transaction shows what is stored of all collections."""

    def perform(self, batch: Batch, view: View) -> None:
        if view.schemas == self.declared:
            return
        if not view.schemas and not view.positions:
            # The first transaction of all. No document is older, and those that it writes follow these declarations.
            batch.pending.schemas.update(self.declared)
            return
        said = {name: fingerprint.partition("?")[0] for name, fingerprint in view.schemas.items()}
        unsaid = [name for name in self.declared if name not in said]
        other = [name for name, of in said.items() if of and of != self.declared.get(name)]
        for name in (*unsaid, *other):
            batch.pending.schemas.setdefault(name, "")


@dataclass(frozen=True, slots=True)
class RedeclareState:
    """Of one node. The phases of a pass follow one another; each step can be repeated."""

    declared: Mapping[str, str]
    """collection → fingerprint of its declaration."""
    nonce: str
    """What no other run has."""
    retry_s: float
    phase: Literal["waiting", "marking", "marked", "unparking", "showing", "finishing", "checking"] = (
        "waiting"
    )
    passes: int = 0
    steps: int = 0
    """Of this pass, that were committed or are being."""
    began_s: float = 0.0
    due: Mapping[str, str] = field(default_factory=dict)
    left: tuple[str, ...] = ()
    """Collections whose documents are not yet all shown as declared."""
    after: str | None = None
    """The last document that is."""
    after_parked: tuple[str, int, int] | None = None
    """The last change that was tried again."""
    shown: int = 0

    @property
    def mark(self) -> dict[str, str]:
        """What is said of the collections until the pass is over. A commit by other declarations takes it away."""
        return {name: f"{wanted}?{self.nonce}{self.passes}.{self.steps}" for name, wanted in self.due.items()}


def due(declared: Mapping[str, str], stored: Mapping[str, str]) -> dict[str, str]:
    """collection → fingerprint of those that are not yet as declared, by the `schemas` of the store."""
    return {name: wanted for name, wanted in declared.items() if stored.get(name) != wanted}


def step(state: RedeclareState, event: port.Outcome, now_s: float) -> port.Next[RedeclareState]:
    """Go over all that is due, again and again.

    Nodes of one region may run with different declarations while a rollout lasts, and one that writes takes the mark of
    a pass away (`MarkMixed`). So only a pass that nobody wrote into says that it is done.
    """
    match state.phase, event:
        case _, port.Woken():
            return replace(state, began_s=now_s), (port.ReadSchemas(),)
        case _, port.Failed():  # a full disk may have room again
            return replace(state, phase="waiting"), (port.WakeAt(now_s + state.retry_s),)
        case "waiting", port.SchemasRead(stored):
            found = due(state.declared, stored)
            if not found:
                return _waiting(state, LOOKED_AFTER_S, now_s)
            state = replace(state, due=found, left=tuple(sorted(found)), passes=state.passes + 1, steps=0)
            state = replace(state, phase="marking", after=None, after_parked=None, shown=0)
            return state, (port.Commit(Redeclare(schemas=state.mark)),)
        case "marking", port.Committed():
            return replace(state, phase="marked"), (port.ReadSchemas(),)
        case "marked", port.SchemasRead(stored) if not due(state.declared, stored):
            return _waiting(state, LOOKED_AFTER_S, now_s)  # the region was empty: see `MarkMixed`
        case ("marked", port.SchemasRead()) | ("unparking", port.Committed()):
            return replace(state, phase="unparking"), (port.ReadParked(state.after_parked),)
        case "unparking", port.ParkedRead(()):
            return _showing(state)
        case "unparking", port.ParkedRead(page):
            readable = tuple(each for each in page if _readable(each))
            return _stepped(replace(state, after_parked=page[-1][:3]), Redeclare(parked=readable))
        case "showing", port.KeysScanned(()):
            return _showing(replace(state, left=state.left[1:], after=None, shown=0))
        case "showing", port.KeysScanned(keys):
            return _stepped(replace(state, after=keys[-1]), Redeclare(state.left[0], keys))
        case "showing", port.Committed(Redeclare(collection, keys)):
            shown = state.shown + len(keys)
            after, effects = _showing(replace(state, shown=shown))
            if shown // _REPORTED > state.shown // _REPORTED:
                effects = (port.Log(f"{collection}: {shown} documents follow its new declaration"), *effects)
            return after, effects
        case "finishing", port.Committed():
            return replace(state, phase="checking"), (port.ReadSchemas(),)
        case "checking", port.SchemasRead(stored):
            done = not due(state.declared, stored)
            return _waiting(state, LOOKED_AFTER_S if done else state.retry_s, now_s)
        case _:
            raise AssertionError(f"no such event while {state.phase}: {event}")


def _stepped(state: RedeclareState, work: Redeclare) -> port.Next[RedeclareState]:
    """The work counts only if the store has all the steps before it."""
    after = replace(state, steps=state.steps + 1)
    return after, (port.Commit(work._replace(schemas=after.mark, instead_of=state.mark)),)


def _showing(state: RedeclareState) -> port.Next[RedeclareState]:
    if state.left:
        return replace(state, phase="showing"), (port.ScanKeys(state.left[0], state.after),)
    return replace(state, phase="finishing"), (
        port.Commit(Redeclare(schemas=state.due, instead_of=state.mark)),
    )


def _waiting(state: RedeclareState, pause_s: float, now_s: float) -> port.Next[RedeclareState]:
    pause_s = max(pause_s, SHARE * (now_s - state.began_s))
    return replace(state, phase="waiting"), (port.WakeAt(now_s + pause_s),)


def fingerprints(application: Application) -> Mapping[str, str]:
    """collection → a digest of what its declaration says."""
    found = {}
    for name, schema in application.stored.items():
        text = json.dumps(schema.describe(), sort_keys=True, separators=(",", ":"), default=repr)
        found[name] = hashlib.sha256(text.encode()).hexdigest()[:16]
    return found


def _readable(parked: Parked) -> bool:
    try:
        decode_entry(parked.body)
    except AtollError:
        return False
    return True
