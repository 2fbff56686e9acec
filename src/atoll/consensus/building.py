"""Building what fields need that were declared later than documents were written: claims of values, and counts.

A document of the system collection `_builds` says how far that has come. Any region changes it, each change depends on
what it was before. So all regions agree on who builds, and whoever takes over knows where to go on.

1. **Waiting.** Each region says that it knows the declaration. From then on all writes keep what the field needs.
2. Each region then says once its documents show all that its acceptor had accepted before. All have to. Whatever is
   decided without what the field needs, even later, was accepted by one of them. So it is in what they have journaled.
3. **Building.** One region, which has all of that, goes over its documents.
4. **Whole.** The field is as if it had been declared at first. Documents that could not be are conflicts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Literal

import msgspec

from atoll.causality.vector import descends, merge

State = Literal["waiting", "building", "whole"]


class Build(msgspec.Struct, frozen=True):
    """Of one field."""

    generation: int
    """Grows with each request."""
    state: State
    known: tuple[str, ...] = ()
    """Regions that know the declaration."""
    settled: dict[str, dict[str, int]] = {}
    """Regions that show all that was decided before → what they had then."""
    builder: str = ""
    """Which run of which node."""
    phase: int = 0
    after: str | None = None
    """The last document of this phase that was looked at."""
    looked: int = 0
    """At so many."""
    conflicts: int = 0
    """Documents that wait for a person."""
    has: dict[str, int] = {}
    """What the builder had when it said so."""
    began_ms: int = 0
    ended_ms: int = 0


_decode = msgspec.json.Decoder(Build).decode


def build_of(text: bytes | None) -> Build | None:
    """Raises msgspec.DecodeError."""
    return None if text is None else _decode(text)


def requested(before: Build | None, region: str) -> Build:
    """A region that has documents finds that they lack what the field needs: all is looked at once more."""
    if before is None:
        return Build(1, "waiting", (region,))
    if before.state == "waiting" and region not in before.known:
        return knows(before, region)
    return Build(  # it has been away: what others had shown until now says nothing of what it has written
        before.generation + 1,
        "waiting",
        tuple(sorted({*before.known, region})),
        conflicts=before.conflicts,
        began_ms=before.began_ms if before.state == "building" else 0,
    )


def knows(before: Build, region: str) -> Build:
    """Once all do, each begins to settle; what was settled before that counts for nothing."""
    return msgspec.structs.replace(before, known=tuple(sorted({*before.known, region})), settled={})


def waits_for(build: Build, regions: Iterable[str]) -> list[str]:
    """Regions that have yet to know the declaration."""
    return [] if build.state == "whole" else sorted({*regions} - {*build.known})


def settles(before: Build, region: str, vector: Mapping[str, int]) -> Build:
    return msgspec.structs.replace(before, settled={**before.settled, region: dict(vector)})


def may_begin(build: Build, regions: Iterable[str], voters: Collection[str]) -> bool:
    """Whether all regions know the declaration, and show what was accepted before.

    A majority would do for what had been decided. What one acceptor alone had accepted may still be decided later, by
    whoever meets it.
    """
    settled = build.settled.keys() & {*voters}
    return not waits_for(build, regions) and settled >= {*regions} and len(settled) > len(voters) // 2


def needed(build: Build) -> dict[str, int]:
    """What the builder has to have."""
    found: dict[str, int] = {}
    for vector in build.settled.values():
        found = merge(found, vector)
    return found


def begun(before: Build, builder: str, now_ms: int, vector: Mapping[str, int]) -> Build:
    """By who begins, or takes over. It goes on where the last one was, if it has what that one had."""
    after = msgspec.structs.replace(
        before, state="building", builder=builder, began_ms=before.began_ms or now_ms
    )
    if descends(vector, before.has):
        return after
    return msgspec.structs.replace(after, phase=0, after=None, looked=0)


def went_on(before: Build, phase: int, after: str | None, looked: int, has: Mapping[str, int]) -> Build:
    return msgspec.structs.replace(
        before, phase=phase, after=after, looked=before.looked + looked, has=dict(has)
    )


def built(before: Build, conflicts: int, now_ms: int) -> Build:
    return msgspec.structs.replace(before, state="whole", conflicts=conflicts, ended_ms=now_ms)
