"""Builds what fields need that were declared when there were documents already: see `consensus.building`.

It goes by ordinary transactions, beside the writers. Each step may be repeated, by whichever region.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from typing import ClassVar, Final, Literal, NamedTuple, Protocol, TypeGuard

import msgspec

from atoll.causality.vector import descends
from atoll.commit.batch import Batch
from atoll.commit.work import Wants
from atoll.consensus.building import (
    Build,
    begun,
    build_of,
    built,
    knows,
    may_begin,
    needed,
    requested,
    settles,
    waits_for,
    went_on,
)
from atoll.consensus.decided import written
from atoll.documents.mutation import Put, Write
from atoll.documents.rules import Rules
from atoll.errors import AtollError, RequestError, Unavailable
from atoll.membership.members import Members
from atoll.region.claiming import Claiming, Means, Page
from atoll.region.counting import Counting
from atoll.region.group_commit import GroupCommit
from atoll.region.references import shown
from atoll.region.showing import Showing
from atoll.region.site import Site
from atoll.replication.link import Linked
from atoll.schema.system import BUILDS
from atoll.store.port import View

KEPT: Final = ("builds", "kept")
"""The state that names the fields which this region has kept all the time."""
_SOON_S: Final = 0.5
_EVERY_S: Final = 30.0
_TURN_S: Final = 3.0
"""One region after the other begins, or takes over, by their names."""
_SILENT_S: Final = 10.0
"""A builder that has said nothing for so long is gone."""
_COVERS_S: Final = 60.0
"""Nobody waits longer for what a region had that may be gone."""
_REVIEWED_MS: Final = 600_000
"""For so long after its end a build is reviewed, if nothing was left then."""


class Record(Protocol):
    """Tells people."""

    def __call__(self, kind: Literal["build-began", "build-ended"], *, detail: str) -> None: ...


class Work(Protocol):
    """What is to be done for one field."""

    PHASES: ClassVar[tuple[str, ...]]

    async def agrees(self) -> bool:
        """Whether documents have all that they need here. Raises what the store raises."""

    async def look(self, phase: int, after: str | None) -> Page:
        """At some of what is left in this phase. Raises what a transaction raises."""

    async def review(self) -> int:
        """What has become of conflicts; how many are left. Raises what a transaction raises."""


class Field(NamedTuple):
    """A field that needs something."""

    key: str
    """Of its document in `_builds`. It begins with the kind."""
    collection: str
    name: str
    work: Work
    target: str | None = None
    """The collection that it refers to."""

    @property
    def kind(self) -> str:
        return self.key.partition("/")[0]

    @property
    def mended_in(self) -> set[str]:
        """The collections whose documents may end a conflict."""
        return {self.collection} if self.target is None else {self.collection, self.target}


class Report(NamedTuple):
    """What `atoll status` says of a field."""

    field: str
    kind: str
    state: str
    waits_for: list[str]
    looked: int
    conflicts: int


class _Keep(NamedTuple):
    """A step: the region keeps these fields from now on."""

    forms: tuple[str, ...]

    def want(self, wants: Wants) -> None:
        pass

    def perform(self, batch: Batch, view: View) -> None:
        batch.pending.states[KEPT] = msgspec.json.encode(self.forms)


class _Seen:
    """A field's build as this node saw it last."""

    def __init__(self, build: Build | None = None, since_s: float = 0.0) -> None:
        self.build = build
        self.since_s = since_s
        self.all_known_s: float | None = None
        self.generation = 0
        """The build of which all have known since then."""


class Surroundings(NamedTuple):
    """Who else there is."""

    members: Members
    links: Mapping[str, Linked]
    commits: GroupCommit
    showing: Showing
    closed: Callable[[], str | None]
    """Why the region does not have all of its documents."""
    due: Callable[[], Awaitable[set[str]]]
    """Collections whose documents may follow another declaration than this node's."""


class Building:
    """Of one node. `open` and `run` it."""

    def __init__(
        self,
        site: Site,
        rules: Mapping[str, Rules],
        means: Means,
        around: Surroundings,
        record: Record,
    ) -> None:
        self._site = site
        self._means = means
        self._around = around
        self._record = record
        self._fields = {each.key: each for each in fields_of(rules, means)}
        self._decides = any(each.schema.policy.by_quorum for each in rules.values())
        self._builder = f"{site.name}/{site.random.getrandbits(64):x}" if self._fields else ""
        self._wanted: set[str] | None = None
        """Fields that this region has to ask for; None before it has looked."""
        self._kept_still: tuple[str, ...] | None = None
        """Fields of a former declaration that this one keeps, where others are kept no longer."""
        self._seen = {key: _Seen() for key in self._fields}
        self._woken = asyncio.Event()
        self._looked = asyncio.Event()
        self._confirmed: set[str] = set()
        """Builds that are shown as a majority had decided them at some time since the start, or later."""

    # -- what others ask -------------------------------------------------------------------------------

    def report(self) -> list[Report]:
        """Of fields that were declared later, as far as this node knows by now."""
        found = []
        for key, field in self._fields.items():
            asked, build = key in (self._wanted or ()), self._seen[key].build
            if build is None:
                if asked:
                    found.append(Report(_name(field), field.kind, "waiting", [], 0, 0))
                continue
            away = waits_for(build, self._around.members.regions)
            state = "waiting" if asked and build.state == "whole" else build.state
            found.append(Report(_name(field), field.kind, state, away, build.looked, build.conflicts))
        return found

    async def require_counts(self, collection: str) -> None:
        """Raise Unavailable unless all references to its documents are counted, as far as this region knows.

        Raises what `Registers.committed` raises, too.
        """
        fields = [each for each in self._fields.values() if each.target == collection]
        if fields and self._wanted is None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._site.options.peer_timeout_s):
                    await self._looked.wait()
        for each in fields:
            if each.key not in self._confirmed:
                await self._confirm(each.key)
            build = await self._read(each.key)
            if self._wanted is None or each.key in self._wanted or (build and build.state != "whole"):
                away = waits_for(build, self._around.members.regions) if build else []
                waits = f", which waits for {', '.join(away)}" if away else ""
                raise Unavailable(
                    f"references by {_name(each)} are being counted{waits}; until that is over, nobody knows what"
                    f" refers to a document of {collection}, so none is deleted. See `atoll status`",
                    region=self._site.name,
                )

    def committed(self, batch: Batch) -> None:
        """After each commit of this node."""
        if not self._fields:
            return
        watched = {BUILDS}
        for key, seen in self._seen.items():
            if seen.build is not None and seen.build.conflicts:
                watched |= self._fields[key].mended_in
        entries = (*batch.applied, *batch.written)
        if any(change.collection in watched for entry in entries for change in entry.changes):
            self._woken.set()

    # -- rounds ----------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Find out what was kept by the former declarations. Raises what the store raises."""
        kept = await self._kept()
        first = kept is None and self._decides and not self._fields
        if first or (kept or set()) - self._fields.keys():
            self._kept_still = tuple(sorted((kept or set()) & self._fields.keys()))

    async def run(self) -> None:
        """For ever.

        From now on nobody here keeps what is not declared any more. That is known when it comes back: it is written
        before all that follows.
        """
        while self._kept_still is not None:
            try:
                await self._around.commits.commit(_Keep(self._kept_still))
                self._kept_still = None
            except AtollError:  # the store fails
                await asyncio.sleep(_SOON_S)
        while self._fields:
            self._woken.clear()
            left = True
            with contextlib.suppress(AtollError, ExceptionGroup):  # no majority answers: later
                left = self._around.closed() is not None or await self.round()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(
                    (_SOON_S if left else _EVERY_S) * (0.5 + self._site.random.random())
                ):
                    await self._woken.wait()
            await asyncio.sleep(_SOON_S * self._site.random.random() / 2)

    async def round(self) -> bool:
        """Go on with each field; whether something is left to do. Raises what a transaction raises."""
        if self._wanted is None:
            await self._look()
        assert self._wanted is not None
        for key in sorted(self._wanted):
            if await self._change(key, lambda build: requested(build, self._site.name)) is None:
                return True  # somebody has just changed it
            await self._confirm(key)
            self._wanted.discard(key)  # from now on what is shown says so
        await self._keep()
        left = False
        for key, field in self._fields.items():
            left |= await self._go_on(key, field)
        return left

    async def _confirm(self, key: str) -> None:
        address, registers = (BUILDS, key), self._means.registers
        await registers.show(address, await registers.committed(address))
        self._confirmed.add(key)

    async def _look(self) -> None:
        kept, due, stored = await self._kept(), await self._around.due(), await self._means.store.schemas()
        wanted = set()
        for key, field in self._fields.items():
            if kept is None or key in kept:
                lacks = (kept is None or field.collection in due) and not await field.work.agrees()
            else:
                lacks = field.collection in stored  # even if no document has come here yet
            if lacks:
                wanted.add(key)
        self._wanted = wanted
        self._looked.set()

    async def _kept(self) -> set[str] | None:
        state = await self._means.store.state(*KEPT)
        return None if state is None else set(msgspec.json.decode(state, type=list[str]))

    async def _keep(self) -> None:
        if await self._kept() != self._fields.keys():
            await self._around.commits.commit(_Keep(tuple(sorted(self._fields))))

    async def _read(self, key: str) -> Build | None:
        try:
            return build_of(shown(await self._means.store.get(BUILDS, key)))
        except msgspec.DecodeError:
            return None  # no version of Atoll has written it

    async def _go_on(self, key: str, field: Field) -> bool:
        build, seen, now_s = await self._read(key), self._seen[key], asyncio.get_running_loop().time()
        if build != seen.build:
            seen.build, seen.since_s = build, now_s
        if build is None:
            return False
        if build.state == "whole":
            return await self._review(key, field, build)
        regions = self._around.members.regions
        if self._site.name not in build.known:
            await self._change(key, lambda before: before and knows(before, self._site.name))
        elif waits_for(build, regions):
            seen.all_known_s = None
        elif build.state == "waiting":
            await self._settle(key, build, seen, now_s)
        elif build.builder == self._builder or self._is_mine(seen, now_s, _SILENT_S):
            await self._build(key, field, build, now_s - seen.since_s)
        return True

    async def _settle(self, key: str, build: Build, seen: _Seen, now_s: float) -> None:
        """All regions know the declaration: show what was decided before, and begin once a majority does."""
        name, around = self._site.name, self._around
        if seen.all_known_s is None or seen.generation != build.generation:
            seen.all_known_s, seen.generation = now_s, build.generation
        if name not in build.settled:
            if around.showing.shows(seen.all_known_s):
                vector = around.commits.progress.vector
                await self._change(key, lambda before: before and settles(before, name, vector))
            return
        voters = self._means.registers.proposer.counted().voters
        if may_begin(build, around.members.regions, voters) and self._is_mine(seen, now_s):
            await self._build(key, self._fields[key], build, now_s - seen.since_s)

    def _is_mine(self, seen: _Seen, now_s: float, after_s: float = 0.0) -> bool:
        """Whether it is this region's turn: the first of those that are there, or the next ones later."""
        here = sorted(
            [
                self._site.name,
                *(peer for peer, link in self._around.links.items() if link.status.connected),
            ]
        )
        return now_s - seen.since_s >= after_s + _TURN_S * here.index(self._site.name)

    def _covers(self, build: Build, waited_s: float) -> bool:
        return waited_s > _COVERS_S or descends(self._around.commits.progress.vector, needed(build))

    async def _change(self, key: str, change: Callable[[Build | None], Build | None]) -> Build | None:
        """What is decided by now; None where others were faster. Raises what a register raises."""
        address, registers = (BUILDS, key), self._means.registers
        value = await registers.committed(address)
        before = build_of(value.value)
        after = change(before)
        if after is None or after == before:
            return after
        version = written(address, value).version
        put = Put(*address, msgspec.json.encode(after), None, version or None, if_absent=not version)
        try:
            await registers.change(Write((put,), brief=True), None)
        except RequestError:
            return None
        self._seen[key].build, self._seen[key].since_s = after, asyncio.get_running_loop().time()
        return after

    # -- building --------------------------------------------------------------------------------------

    async def _build(self, key: str, field: Field, build: Build, waited_s: float) -> None:
        """Until the field is whole, or another region builds. Raises what a transaction raises."""
        if build.builder != self._builder:
            if not self._covers(build, waited_s):
                return
            was = (build.generation, build.state, build.builder)
            taken_over = f"; taken over from {build.builder}" if build.state == "building" else ""
            has = self._around.commits.progress.vector

            def begins(before: Build | None) -> Build | None:
                if before is None or (before.generation, before.state, before.builder) != was:
                    return None
                return begun(before, self._builder, self._site.now_ms(), has)

            taken = await self._change(key, begins)
            if taken is None:
                return
            build = taken
            self._record("build-began", detail=_detail(field) + taken_over)
        while build.phase < len(field.work.PHASES):
            page = await field.work.look(build.phase, build.after)
            went = await self._change(key, partial(self._went_on, page, build.phase))
            if went is None:
                return
            build = went
        conflicts = await field.work.review()
        if await self._change(key, partial(self._built, conflicts)) is not None:
            self._record("build-ended", detail=f"{_detail(field)}; {conflicts} conflicts")

    def _is_built_here(self, build: Build | None) -> TypeGuard[Build]:
        """Not so once another region has taken over, or all begins anew."""
        return build is not None and (build.state, build.builder) == ("building", self._builder)

    def _went_on(self, page: Page, phase: int, before: Build | None) -> Build | None:
        has = self._around.commits.progress.vector
        if not self._is_built_here(before):
            return None
        return went_on(before, phase + (page.after is None), page.after, page.looked, has)

    def _built(self, conflicts: int, before: Build | None) -> Build | None:
        return built(before, conflicts, self._site.now_ms()) if self._is_built_here(before) else None

    async def _review(self, key: str, field: Field, build: Build) -> bool:
        """Whether the conflicts that a build has left are there still."""
        seen, now_s = self._seen[key], asyncio.get_running_loop().time()
        if not (build.conflicts or self._site.now_ms() - build.ended_ms < _REVIEWED_MS):
            return False
        if self._is_mine(seen, now_s):
            left = await field.work.review()
            if left != build.conflicts:
                whole = build

                def counted(before: Build | None) -> Build | None:
                    return msgspec.structs.replace(before, conflicts=left) if before == whole else None

                await self._change(key, counted)
        return False


def _name(field: Field) -> str:
    return f"{field.collection}.{field.name}"


def _detail(field: Field) -> str:
    return f"{_name(field)} ({field.kind})"


def fields_of(rules: Mapping[str, Rules], means: Means) -> Iterable[Field]:
    """Of collections that a majority decides."""
    for name, each in rules.items():
        if each.schema.policy.by_quorum:
            for field in each.schema.unique:
                yield Field(f"unique/{name}/{field}", name, field, Claiming(each, field, means))
            for reference in each.schema.references:
                if reference.on_delete != "dangling":
                    field, target, _ = reference
                    key = f"references/{name}/{field}/{target}"
                    yield Field(key, name, field, Counting(each, reference, means), target)
