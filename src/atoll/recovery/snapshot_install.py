"""Snapshot install: a region that comes back too late, or with an empty disk, installs the snapshot of a peer.

A stream says so when a peer's journal no longer holds what comes next here. Then one node of the region goes on:

1. *Pull.* Pages of all that a peer holds are kept aside, in a collection of their own. No link pulls meanwhile.
2. *Install the position.* Once all pages are here, the vector from which the peer began to read becomes this
   region's, in a commit of its own. The region holds that much durably now, and says so.
3. *Cover.* Links pull again, until everything is here that the peer had when it read the last page. Pages may hold
   that, too. Were they merged before, documents would show what the vector does not say. Had the peer lost its disk,
   this region alone would hold changes that nobody can number or pass on. If that has come true by now, the pages are
   left. A new round then begins, with a peer that has all that was installed.
4. *Merge.* The pages, like any state of a document, in any order and as often as it takes.

Until the end nothing is read or written here. The record in the store says how far it is, and every commit compares it
(`recovery.snapshot_record`). So a crash goes on where it was, and a node that was paused disturbs no other one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import msgspec

from atoll.causality import vector as vectors
from atoll.causality.types import Dot
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
    finished,
    key_of,
    pack,
    until_of,
    with_page,
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
"""In a row, before another peer is asked instead; two, when the link to this one is down. So often is a peer out of
reach, too, before what it alone has is no longer waited for."""
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
            if state.phase == "covering" and not state.grace:
                return replace(state, grace=True), (port.WakeAt(now_s + state.settings.grace_s),)
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
            if page is not None and round > state.record.done:
                rounds = with_page(state.rounds, state.pages, KeptPage(round, peer, page))
                state = replace(state, rounds=rounds)
            return state, (port.ScanKept(key),)
        case "pulling", port.PageReceived(peer, page):
            return _received(state, peer, page, now_s)
        case "covering", port.Covered():
            dots = tuple(dot for each in finished(state.rounds) for dot in each.lasts)
            return replace(state, phase="comparing"), (port.ReadDigests(dots), port.WakeAt(math.inf))
        case "covering", port.PositionsRead(positions):
            return _positions(state, positions)
        case "comparing", port.DigestsRead(digests):
            return _compared(state, digests)
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
        case "idle" | "grace":
            return _claimed_next(state)  # another node has begun
        case "looking on":
            return _looked_on(state)
        case _ if not (seen.generation is not None and found.goes_on_from(before)):
            return _claimed_next(state)  # another node went on while this one was paused
        case "taking up":
            return _resumed(state, now_s)
        case "pulling":
            return _asked(state)
        case "settling":
            began = state.rounds[found.number].began
            return state, (port.Commit(MoveRecord(found, found.moved("installing"), began)),)
        case "covering":
            return _covering(state, now_s)
        case "comparing" | "merging":
            return _covering(replace(state, phase="covering", pieces=()), now_s)
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
    return replace(state, late=left, grace=False), (port.ReopenLinks(again),) if again else ()


def _idle(state: InstallState, now_s: float) -> _Next:
    """The lease is given back: the node that comes too late next may be another one."""
    settings = state.settings
    state = replace(
        state, rounds={}, pages=0, merged=0, to_merge=(), pieces=(), trouble="", source="", avoided=""
    )
    if state.late:
        return replace(state, phase="grace"), (port.Release(LEASE), port.WakeAt(now_s + settings.grace_s))
    return replace(state, phase="idle"), (
        port.Release(LEASE),
        port.WakeAt(now_s + LOOK_EVERY * settings.lease_s),
    )


def _claimed_next(state: InstallState) -> _Next:
    return replace(state, phase="claiming", to_merge=(), pieces=()), (
        port.Claim(LEASE),
        port.WakeAt(math.inf),
    )


def _looked_on(state: InstallState) -> _Next:
    """Another node does it. Its round cannot cover what the links of this one will not bring any more."""
    if state.record.phase != "installing" or not state.late:
        return _claimed_next(state)
    if not state.grace:
        after, effects = _claimed_next(replace(state, grace=True))
        return after, effects
    state, effects = _still_late(state)
    if not state.late:
        after, more = _claimed_next(state)
        return after, effects + more
    return state, (*effects, port.Commit(MoveRecord(state.record, state.record.moved("late"))))


def _claimed(state: InstallState, granted: bool, now_s: float) -> _Next:
    if state.phase == "beginning":
        return _begun(state) if granted else _idle(state, now_s)
    if state.phase != "claiming":
        return state, ()
    if granted:
        return _taking_up(state)
    state = replace(state, phase="looking on", rounds={}, merged=0)
    return state, (port.WakeAt(now_s + LOOK_EVERY * state.settings.lease_s),)


def _taking_up(state: InstallState) -> _Next:
    """Find out how far the round is, by its pages."""
    return replace(state, phase="taking up", rounds={}, pages=0, merged=0, grace=False), (port.ScanKept(""),)


def _begun(state: InstallState, *why: str) -> _Next:
    """A new round. Complete ones that are not merged stay until it has taken their place."""
    state = replace(state, phase="beginning", failures=0, source="", grace=False)
    logs = tuple(port.Log(f"{state.settings.region} begins a snapshot anew: {reason}") for reason in why)
    return state, (
        *logs,
        port.WakeAt(math.inf),
        port.Commit(MoveRecord(state.record, state.record.next_round())),
    )


def _resumed(state: InstallState, now_s: float) -> _Next:
    """What the round has come to, by its pages."""
    current = state.rounds.get(state.record.number)
    if state.record.phase == "pulling":
        if current is not None and current.next is None:
            return _settling(state, now_s)
        return replace(state, phase="pulling"), (port.Survey(RECORD, LEASE),)
    if state.record.phase == "late" or not finished(state.rounds):
        return _begun(state)
    return _covering(replace(state, phase="covering"), now_s)


# -- pulling --------------------------------------------------------------------------------------------


def _asked(state: InstallState) -> _Next:
    current = state.rounds.get(state.record.number)
    peer = current.peer if current is not None else state.source or _source(state)
    place = SnapshotPlace() if current is None or current.next is None else current.next
    timeout_s = min(state.settings.timeout_s * (1 + state.failures), _LONGEST_TIMEOUT_S)
    return replace(state, source=peer), (port.AskPage(peer, place, timeout_s),)


def _source(state: InstallState) -> str:
    """Whose snapshot: of a peer that is in reach, if there is one, and whose journal holds least."""
    return min(
        state.settings.peers,
        key=lambda peer: (peer == state.avoided, peer not in state.connected, peer not in state.late, peer),
        default=state.source,
    )


def _received(state: InstallState, peer: str, page: SnapshotReply, now_s: float) -> _Next:
    current = state.rounds.get(state.record.number)
    if current is not None and not current.goes_on_with(page):
        return _begun(state, f"the snapshot of {peer} has changed")
    refusal = _undeclared(state, peer, page) or _lacking(state, peer, page)
    if refusal:
        return _failed(state, Unavailable(refusal), now_s)
    kept = KeptPage(state.record.number, peer, page)
    row = (key_of(state.pages + 1), pack(kept))
    return replace(state, incoming=kept), (port.Commit(KeepPages(state.record, (row,)), page.clock),)


def _undeclared(state: InstallState, peer: str, page: SnapshotReply) -> str:
    """What has no place here: entries of it could be parked, a whole state cannot."""
    for name, lattices in page.declared.items():
        kinds = state.settings.declared.get(name)
        lacking = {field for field, kind in lattices.items() if (kinds or {}).get(field) != kind}
        if kinds is None or lacking:
            what = ", ".join(f"{name}.{field}" for field in sorted(lacking)) or name
            return f"{peer} has {what}, which is not declared here: upgrade {state.settings.region}"
    return ""


def _lacking(state: InstallState, peer: str, page: SnapshotReply) -> str:
    """Whether its pages could not take the place of those that were left: it lacks some of what is installed."""
    for each in state.rounds.values():
        if each.next is None and not vectors.descends(page.before, each.began):
            return f"{peer} lacks some of what {each.peer} had, whose snapshot cannot be used"
    return ""


def _kept(state: InstallState, now_s: float) -> _Next:
    assert state.incoming is not None, "a page is kept that was received"
    number = state.pages + 1
    rounds = with_page(state.rounds, number, state.incoming)
    state = replace(state, rounds=rounds, pages=number, incoming=None, failures=0, avoided="", trouble="")
    if rounds[state.record.number].next is None:
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
    return _begun(state) if state.record.number in state.rounds else (state, (wait,))


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


def _covering(state: InstallState, now_s: float) -> _Next:
    """Wait for every entry that may be in the pages, unless another snapshot has to take their place.

    That is so when a journal no longer holds the entries either, or when nobody will ever send them.
    """
    if state.record.phase == "late":
        return _begun(state)
    effects: tuple[port.Effect, ...] = ()
    if state.grace:
        state, effects = _still_late(state)
        if state.late:
            return _begun(state)
    missed: dict[str, int] = {}
    asked: set[str] = set()
    for each in finished(state.rounds):
        times = 0 if each.peer in state.connected else state.missed.get(each.peer, 0) + 1
        missed[each.peer] = times
        if not 0 < times < _MOST_FAILURES:
            asked |= state.connected if times else {each.peer}
    if asked:
        effects += (port.AskPositions(tuple(sorted(asked))),)
    wait = port.WakeAt(now_s + state.settings.lease_s)
    return replace(state, missed=missed), (*effects, port.AwaitCovered(until_of(state.rounds)), wait)


def _positions(state: InstallState, positions: Mapping[str, Mapping[str, int]]) -> _Next:
    """Whether a peer has lost what its pages may show, or is out of reach, and another snapshot can take the place
    of its one.
    """
    for each in finished(state.rounds):
        times = state.missed.get(each.peer, 0)
        if 0 < times < _MOST_FAILURES:
            continue
        asked = state.connected if times else {each.peer}
        said = [vector for peer, vector in sorted(positions.items()) if peer in asked]
        if any(vectors.descends(vectors.merge(state.here, vector), each.until) for vector in said):
            continue  # it is on its way
        if any(vectors.descends(vector, each.began) for vector in said):
            return _begun(state, f"{each.peer} lacks what its snapshot shows")
        if said:
            state = replace(state, trouble=f"nobody in reach has all that {each.peer} had")
    return state, ()


def _compared(state: InstallState, digests: Mapping[Dot, bytes | None]) -> _Next:
    """Whether entries have come under numbers that the peer had given to others, which pages may show."""
    for each in finished(state.rounds):
        for dot, digest in each.lasts.items():
            here = digests[dot]
            if here is not None and here != digest:
                why = f"entry {dot.seq} of {dot.origin} is another one than its snapshot shows"
                return _begun(state, why)
    pages = tuple(number for each in finished(state.rounds) for number in each.pages)
    return _merged_next(replace(state, phase="merging", to_merge=pages, merged=0, pieces=(), trouble=""))


def _merged_next(state: InstallState) -> _Next:
    if state.pieces:
        return state, (port.Commit(MergePage(state.record, until_of(state.rounds), state.pieces[0])),)
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
        case "looking on", MoveRecord(_, record):
            return _claimed_next(replace(state, record=record))
        case "pulling", KeepPages():
            return _kept(replace(state, record=state.record.stepped()), now_s)
        case "settling", MoveRecord(_, record):
            state = replace(state, phase="covering", record=record, late={}, missed={}, grace=False)
            until, lease_s = until_of(state.rounds), state.settings.lease_s
            return state, (
                port.ReopenLinks(state.settings.peers),
                port.AwaitCovered(until),
                port.WakeAt(now_s + lease_s),
            )
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
        case "removing", KeepPages():
            left = state.to_merge[_REMOVED_AT_ONCE:]
            return _removed_next(replace(state, record=state.record.stepped(), to_merge=left), now_s)
        case _:
            return state, ()


def _removed_next(state: InstallState, now_s: float) -> _Next:
    """What lay aside is removed, unless another round has begun by now, which numbers its pages anew."""
    rows = tuple((key_of(number), b"") for number in state.to_merge[:_REMOVED_AT_ONCE])
    return (state, (port.Commit(KeepPages(state.record, rows)),)) if rows else _idle(state, now_s)
