"""Snapshot install: a region that comes back too late, or with an empty disk, installs the snapshot of a peer.

A stream says so when a peer's journal no longer holds what comes next here. Then one node of the region goes on:

1. *Pull.* Pages of all that a peer holds are kept aside, in a collection of their own. No link pulls meanwhile. The
   peer goes on, so pages may show what it did after it had read the first one. The last pages are the entries of that.
   So from then on nothing is needed of the peer, whatever becomes of it.
2. *Install the position.* Once all pages are here, what the peer had at the last one becomes this region's, in a commit
   of its own. The region holds that much durably now, and says so.
3. *Merge.* The pages, like any state of a document, in any order and as often as it takes.

Until the end nothing is read or written here. The record in the store says how far it is, and every commit compares it
(`recovery.snapshot_record`). So a crash goes on where it was, and a node that was paused disturbs no other one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import msgspec

from atoll.causality import vector as vectors
from atoll.commit.snapshot_page import RECORD
from atoll.commit.work import Fence
from atoll.errors import AtollError, ClockAhead, FenceLost, ReplicationError, Unavailable
from atoll.protocol import port
from atoll.recovery.snapshot_record import (
    KeepPages,
    KeptPage,
    MergePage,
    MoveRecord,
    Record,
    Round,
    key_of,
    pack,
)
from atoll.recovery.snapshot_state import InstallState
from atoll.replication.messages import SnapshotPlace, SnapshotReply

LEASE = "snapshot"
LOOK_EVERY, SURE_FOR, INSTALLED_AFTER = 0.5, 1.5, 2.0
"""All in leases:

- how often a node looks whether another one installs a snapshot;
- for how long it knows then that none has installed a position;
- how long a node waits before it does.
"""
_LONGEST_TIMEOUT_S = 30.0
_MOST_FAILURES = 5
"""In a row, before another peer is asked instead; two, when the link to this one is down."""
_REMOVED_AT_ONCE = 200


class Opened(msgspec.Struct, frozen=True):
    """The node has started; the store has this record."""

    record: Record


class TooLate(msgspec.Struct, frozen=True):
    """A peer's journal no longer holds what comes next here."""

    peer: str
    past: Mapping[str, int]


class Replaced(msgspec.Struct, frozen=True):
    """Another database has taken the place of the region's: it may hold another record, and other pages."""


Event = Opened | TooLate | Replaced | port.MembersChanged | port.Outcome
_Next = port.Next[InstallState]


def step(state: InstallState, event: Event, now_s: float) -> _Next:
    """The next state. Links are reviewed whenever they are to pull again, or no longer."""
    after, effects = _step(state, event, now_s)
    if any(isinstance(effect, port.Survey) for effect in effects):
        after = replace(after, survey_s=now_s)
    effects = tuple(_fenced(after, effect) for effect in effects)
    return after, effects if after.pulling == state.pulling else (port.ReviewLinks(), *effects)


def _fenced(state: InstallState, effect: port.Effect) -> port.Effect:
    """Whoever goes on with a round holds the lease until that is durable. Whoever looks on may say that it is late."""
    if state.phase == "looking on" or state.generation is None or not isinstance(effect, port.Commit):
        return effect
    return port.Commit(effect.step, effect.stamp, Fence(LEASE, state.generation))


def _step(state: InstallState, event: Event, now_s: float) -> _Next:
    match event:
        case Opened(record):
            state = replace(state, record=record, looked_s=now_s, replaced=False)
            return _claimed_next(state) if state.pending else _idle(state, now_s)
        case port.MembersChanged(peers):
            settings = replace(state.settings, peers=tuple(sorted(peers)))
            late = {peer: past for peer, past in state.late.items() if peer in peers}
            return replace(state, settings=settings, late=late), ()
        case TooLate(peer, past):
            state = replace(state, late={**state.late, peer: dict(past)})
            if state.phase == "idle":
                return replace(state, phase="grace"), (port.WakeAt(now_s + state.settings.grace_s),)
            return state, ()
        case Replaced():
            # Links open anew, and are told again. Where no snapshot was ever installed, none is half installed.
            state = replace(state, replaced=state.record.number > 0, late={})
            if state.phase in ("idle", "grace", "looking on"):
                return replace(state, phase="idle"), (port.Survey(RECORD, LEASE),)
            return _claimed_next(state)
        case port.Woken():
            return state, (port.Survey(RECORD, LEASE),)
        case port.Surveyed():
            return _surveyed(replace(state, looked_s=state.survey_s), event, now_s)
        case port.Claimed(_, generation):
            return _claimed(replace(state, generation=generation), generation is not None, now_s)
        case port.Committed(done):
            return _committed(state, done, now_s)
        case port.Failed(port.Release()) | port.Released():
            return state, ()  # the next look releases once more
        case port.Failed(_, FenceLost()):
            return _claimed_next(state)  # another node goes on with it
        case port.Failed(_, error):
            return _failed(state, error, now_s)
        case _:
            return _advanced(state, event, now_s)


def _advanced(state: InstallState, event: port.Outcome, now_s: float) -> _Next:
    match state.phase, event:
        case "taking up", port.KeptScanned(key, round, peer, page):
            if not key:
                return state, (port.Survey(RECORD, LEASE),)  # a scan is slow: the round may be over by now
            state = replace(state, pages=int(key))
            if page is not None and round == state.record.number:
                found = state.round or Round.of(peer, page)
                state = replace(state, round=found.take(page, state.pages))
            return state, (port.ScanKept(key),)
        case "pulling", port.PageReceived():
            return _received(state, event, now_s)
        case "merging", port.KeptOpened(_, pieces):
            state = replace(state, pieces=pieces)
            return _merged_next(state) if pieces else _page_merged(state)
        case _:
            return state, ()  # of a phase that is over


# -- what a look at the store and the links leads to ----------------------------------------------------


def _surveyed(state: InstallState, seen: port.Surveyed, now_s: float) -> _Next:
    before, found = state.record, Record.of(seen.state)
    state = replace(
        state,
        record=found,
        connected=seen.connected,
        here=seen.vector,
        generation=seen.generation,
        replaced=False,
    )
    if found.phase == "done":
        return _ended(state, now_s)
    match state.phase:
        case "idle" | "grace" | "looking on":
            return _claimed_next(state)  # another node has begun
        case _ if seen.generation is None or found != before:
            return _claimed_next(state)  # another node went on while this one was paused
        case "taking up":
            return _resumed(state, now_s)
        case "pulling":
            return _asked(state)
        case "settling":
            until = _round(state).until
            return state, (port.Commit(MoveRecord(found, found.moved("installing"), until)),)
        case "merging":
            return _merged_next(replace(state, pieces=()))
        case "claiming" | "beginning" | "removing":
            return _claimed_next(state)


def _ended(state: InstallState, now_s: float) -> _Next:
    """No round is under way, or it was ended by another node."""
    if state.phase == "removing":
        return _removed_next(state, now_s)
    if state.phase != "grace":
        return _idle(state, now_s)
    state, effects = _still_late(state)
    if not state.late:
        after, more = _idle(state, now_s)
        return after, effects + more
    return replace(state, phase="beginning"), (*effects, port.Claim(LEASE))


def _still_late(state: InstallState) -> tuple[InstallState, tuple[port.Effect, ...]]:
    """Without what has come another way meanwhile; those links ask anew."""
    left = {peer: past for peer, past in state.late.items() if not vectors.descends(state.here, past)}
    again = tuple(sorted(state.late.keys() - left.keys()))
    return replace(state, late=left), (port.ReopenLinks(again),) if again else ()


def _idle(state: InstallState, now_s: float) -> _Next:
    """The lease is given back: the node that comes too late next may be another one."""
    settings = state.settings
    state = replace(
        state, round=None, pages=0, merged=0, to_merge=(), pieces=(), trouble="", source="", avoided=""
    )
    if state.late:
        return replace(state, phase="grace"), (port.Release(LEASE), port.WakeAt(now_s + settings.grace_s))
    return replace(state, phase="idle"), (
        port.Release(LEASE),
        port.WakeAt(now_s + LOOK_EVERY * settings.lease_s),
    )


def _claimed_next(state: InstallState) -> _Next:
    return replace(state, phase="claiming", asked=None, to_merge=(), pieces=()), (
        port.Claim(LEASE),
        port.WakeAt(math.inf),
    )


def _claimed(state: InstallState, granted: bool, now_s: float) -> _Next:
    if state.phase == "beginning":
        return _begun(state) if granted else _idle(state, now_s)
    if state.phase != "claiming":
        return state, ()
    if granted:
        return _taking_up(state)
    state = replace(state, phase="looking on", round=None, merged=0)
    return state, (port.WakeAt(now_s + LOOK_EVERY * state.settings.lease_s),)


def _taking_up(state: InstallState) -> _Next:
    """Find out how far the round is, by its pages."""
    return replace(state, phase="taking up", round=None, pages=0, merged=0), (port.ScanKept(""),)


def _begun(state: InstallState, *why: str) -> _Next:
    """A new round. The pages of the one before stay until it is done."""
    state = replace(state, phase="beginning", asked=None, failures=0, source="")
    logs = tuple(port.Log(f"{state.settings.region} begins a snapshot anew: {reason}") for reason in why)
    return state, (
        *logs,
        port.WakeAt(math.inf),
        port.Commit(MoveRecord(state.record, state.record.next_round())),
    )


def _resumed(state: InstallState, now_s: float) -> _Next:
    """What the round has come to, by its pages."""
    if state.record.incomplete:
        return _merging(state)
    if state.round is not None and state.round.complete:
        return _settling(state, now_s)
    return replace(state, phase="pulling"), (port.Survey(RECORD, LEASE),)


def _round(state: InstallState) -> Round:
    found = state.round
    assert found is not None, "a position is installed once all pages of its round are here"
    assert found.complete, "a position is installed once all pages of its round are here"
    return found


# -- pulling --------------------------------------------------------------------------------------------


def _asked(state: InstallState) -> _Next:
    current = state.round
    peer = current.peer if current is not None else state.source or _source(state)
    place = SnapshotPlace() if current is None else current.next
    timeout_s = min(state.settings.timeout_s * (1 + state.failures), _LONGEST_TIMEOUT_S)
    return replace(state, source=peer, asked=place), (port.AskPage(peer, place, timeout_s),)


def _source(state: InstallState) -> str:
    """Whose snapshot: of a peer that is in reach, if there is one, and whose journal holds least."""
    return min(
        state.settings.peers,
        key=lambda peer: (peer == state.avoided, peer not in state.connected, peer not in state.late, peer),
        default=state.source,
    )


def _received(state: InstallState, received: port.PageReceived, now_s: float) -> _Next:
    peer, page, number = received.peer, received.page, state.pages + 1
    if (peer, received.place) != (state.source, state.asked):
        return state, ()  # it was asked for before the store was looked at once more
    state = replace(state, asked=None)
    if state.round is not None and (why := state.round.why_not(page, received.digests)):
        return _begun(replace(state, avoided=peer), why)
    refusal = _undeclared(state, peer, page)
    if refusal:
        return _failed(state, Unavailable(refusal), now_s)
    found = (state.round or Round.of(peer, page)).take(page, number)
    row = (key_of(number), pack(KeptPage(state.record.number, peer, page)))
    keep = KeepPages(state.record, state.record.stepped(found.until), (row,))
    return replace(state, incoming=found), (port.Commit(keep, page.clock),)


def _undeclared(state: InstallState, peer: str, page: SnapshotReply) -> str:
    """What has no place here: entries of it could be parked, a whole state cannot."""
    for name, lattices in page.declared.items():
        kinds = state.settings.declared.get(name)
        lacking = {field for field, kind in lattices.items() if (kinds or {}).get(field) != kind}
        if kinds is None or lacking:
            what = ", ".join(f"{name}.{field}" for field in sorted(lacking)) or name
            return f"{peer} has {what}, which is not declared here: upgrade {state.settings.region}"
    return ""


def _kept(state: InstallState, record: Record, now_s: float) -> _Next:
    found, number = state.incoming, state.pages + 1
    assert found is not None, "a page is kept that was received"
    state = replace(state, record=record, round=found, pages=number, incoming=None)
    state = replace(state, failures=0, avoided="", trouble="")
    if found.complete:
        return _settling(state, now_s)
    return state, (port.Survey(RECORD, LEASE),)


def _failed(state: InstallState, error: AtollError, now_s: float) -> _Next:
    wait = port.WakeAt(now_s + state.settings.retry_s)
    if state.phase != "pulling":
        return replace(state, trouble=error.message), (wait,)
    state = replace(state, trouble=f"{state.source}: {error.message}", failures=state.failures + 1)
    if not _hopeless(state, error):
        return state, (wait,)
    state = replace(state, avoided=state.source, source="", failures=0)
    return _begun(state) if state.round is not None else (state, (wait,))


def _hopeless(state: InstallState, error: AtollError) -> bool:
    """Whether to give up what came from this peer, and to begin anew, with another one if there is one."""
    if isinstance(error, ReplicationError):
        return not isinstance(error, ClockAhead)  # a clock is waited for; what is damaged stays so
    down = state.source not in state.connected
    return bool(state.connected - {state.source}) and state.failures >= (2 if down else _MOST_FAILURES)


# -- taking over ----------------------------------------------------------------------------------------


def _settling(state: InstallState, now_s: float) -> _Next:
    """From the install on the vector says more than the documents show. No other node reads any more then."""
    wait_s = INSTALLED_AFTER * state.settings.lease_s if state.settings.shares_store else 0.0
    return replace(state, phase="settling"), (port.WakeAt(now_s + wait_s),)


def _merging(state: InstallState) -> _Next:
    found = _round(state)
    pages = (*found.entries, *found.pages)
    state = replace(state, phase="merging", to_merge=pages, merged=0, pieces=(), trouble="")
    after, effects = _merged_next(state)
    return after, (*effects, port.WakeAt(math.inf))


def _merged_next(state: InstallState) -> _Next:
    if state.pieces:
        merge = MergePage(state.record, _round(state).until, state.pieces[0])
        return state, (port.Commit(merge),)
    if state.to_merge:
        return state, (port.OpenKept(state.to_merge[0]),)
    return state, (port.Commit(MoveRecord(state.record, state.record.moved("done"))),)


def _page_merged(state: InstallState) -> _Next:
    return _merged_next(replace(state, to_merge=state.to_merge[1:], merged=state.merged + 1))


def _committed(state: InstallState, done: object, now_s: float) -> _Next:
    match state.phase, done:
        case "beginning", MoveRecord(_, record):
            after, effects = _taking_up(replace(state, record=record))
            return after, (port.Log(state.reason), *effects)
        case "pulling", KeepPages(_, record):
            return _kept(state, record, now_s)
        case "settling", MoveRecord(_, record):
            after, effects = _merging(replace(state, record=record, late={}))
            return after, (port.ReopenLinks(state.settings.peers), *effects)
        case "merging", MergePage():
            state = replace(state, record=state.record.stepped(), pieces=state.pieces[1:])
            return _merged_next(state) if state.pieces else _page_merged(state)
        case "merging", MoveRecord(_, record):
            log = port.Log(f"{state.settings.region} has installed a snapshot of {state.merged} pages")
            left = tuple(range(1, state.pages + 1))
            state = replace(
                state, record=record, completed=state.completed + 1, phase="removing", to_merge=left
            )
            after, effects = _removed_next(state, now_s)
            return after, (log, *effects)
        case "removing", KeepPages(_, record):
            left = state.to_merge[_REMOVED_AT_ONCE:]
            return _removed_next(replace(state, record=record, to_merge=left), now_s)
        case _:
            return state, ()


def _removed_next(state: InstallState, now_s: float) -> _Next:
    """What lay aside is removed, unless another round has begun by now, which numbers its pages anew."""
    rows = tuple((key_of(number), b"") for number in state.to_merge[:_REMOVED_AT_ONCE])
    remove = KeepPages(state.record, state.record.stepped(), rows)
    return (state, (port.Commit(remove),)) if rows else _idle(state, now_s)
