"""The events of one node: a part of the region that writes what happens to the deployment into `_events`.

Whoever notices something calls `record`, which never waits, never fails and writes nothing: a task of the log's own
writes, as any other writer does. While the region refuses writes, events wait in bounded memory
(`region.event_queue`). Those that wait when the process ends are lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping

import msgspec

from atoll.commit.batch import Batch
from atoll.documents.entry import decode_entry
from atoll.documents.mutation import Put, Write, put_of
from atoll.documents.rules import Rules
from atoll.errors import AtollError, RequestError
from atoll.region.event_queue import EventQueue, Kind, LinkSeen, Occurrence
from atoll.region.site import Site
from atoll.replication.link import Linked
from atoll.schema.system import EVENTS, system_collections

logger = logging.getLogger("atoll.region")

_LOOK_S = 1.0
"""How often the log looks whether something has been completed, and tries again what was refused."""
_COMPLETED: dict[Kind, str] = {
    "restored": "the region serves again",
    "failed-over": "the database was replaced or started again, and the region holds what its peers had of it",
    "snapshot-installed": "a peer's journal began too late for the region, which has taken its documents over",
}
_MOST_DETAIL = 500
"""Characters of a detail that are kept."""


class EventLog:
    """`open` it once the region knows how it starts, and `run` it."""

    def __init__(
        self,
        site: Site,
        node: str,
        *,
        links: Mapping[str, Linked],
        held: Callable[[str], bool],
        completed: Mapping[Kind, Callable[[], int]],
        write: Callable[[Write], Awaitable[object]],
    ) -> None:
        """`held` says whether this node keeps the link to a peer for its region.

        `completed` are counts, since the node's start. Restores count 0 while one is under way, and 1 else.
        """
        self.written: Counter[str] = Counter()
        """kind → events that this node has written."""
        self.left_out = 0
        """How many it did not write, because too many came at once."""
        self._region = site.name
        self._node = node
        self._links = links
        self._held = held
        self._completed = completed
        self._write = write
        self._now_ms = site.now_ms
        self._random = site.random
        self._rules = Rules(system_collections()[EVENTS])
        self._queue = EventQueue(site.options.events)
        self._counted = dict.fromkeys(completed, 0)
        self._woken = asyncio.Event()
        self._opened = False

    async def open(self) -> None:
        """The node starts."""
        self._opened = True
        self._counted["restored"] = self._completed["restored"]()
        self._queue.started(Occurrence("region-started", self._now_ms()), self._now_s())
        self.links_changed()

    def record(self, kind: Kind, *, peer: str = "", detail: str = "", count: int = 1) -> None:
        """It has just happened."""
        if self._opened:
            self._queue.note(Occurrence(kind, self._now_ms(), peer, _short(detail), count))
            self._woken.set()

    def links_changed(self) -> None:
        """A link went up or down, or another node keeps it now."""
        if not self._opened:
            return
        seen = {
            peer: LinkSeen(status.connected, status.since_ms, _short(status.last_error or ""))
            for peer, link in self._links.items()
            if self._held(peer)
            for status in (link.status,)
        }
        self._queue.look(seen, self._now_s())
        self._woken.set()

    def committed(self, batch: Batch) -> None:
        """After each commit of this node."""
        if not (batch.pending.parked and self._opened):
            return
        first = batch.pending.parked[0]
        with contextlib.suppress(AtollError):
            change = decode_entry(first.body).changes[0]
            if change.collection != EVENTS:  # or regions that refuse each other's events would go on for ever
                detail = f"{change.collection}/{change.key} of {first.origin}: {first.reason}"
                self.record(
                    "change-parked", peer=first.origin, detail=detail, count=len(batch.pending.parked)
                )

    async def run(self) -> None:
        """Write, for ever."""
        while True:
            pause_s = min(_LOOK_S, max(0.0, self._queue.wake_s() - self._now_s()))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._woken.wait()
            self._woken.clear()
            self._look()
            taken = self._queue.take(self._now_s())
            if taken:
                left_out, self._queue.left_out = self._queue.left_out, 0
                self.left_out += left_out
                await self._append(taken, left_out)

    def _look(self) -> None:
        """Note what has been completed since the last time."""
        for kind, count in self._completed.items():
            more = count() - self._counted[kind]
            self._counted[kind] += more
            if more > 0:
                self.record(kind, detail=_COMPLETED[kind], count=more)

    async def _append(self, taken: list[Occurrence], left_out: int) -> None:
        """One entry for all of them, exactly once however often it has to be tried."""
        puts = [self._put(each, left_out if at == 0 else 0) for at, each in enumerate(taken)]
        write = Write(tuple(puts), f"{EVENTS} {self._random.getrandbits(96):024x}")
        while True:
            try:
                await self._write(write)
            except RequestError as error:
                logger.error("%s cannot write its events: %s", self._region, error.message)
                self.left_out += len(taken)
                return
            except AtollError:  # the region takes no writes at present
                await asyncio.sleep(_LOOK_S)
            else:
                self.written.update(each.kind for each in taken)
                return

    def _put(self, occurrence: Occurrence, left_out: int) -> Put:
        document = {
            "kind": occurrence.kind,
            "region": self._region,
            "node": self._node,
            "peer": occurrence.peer,
            "at_ms": occurrence.at_ms,
            "detail": occurrence.detail,
            "count": occurrence.times,
            "left_out": left_out,
        }
        return put_of(self._rules, "", msgspec.json.encode(document))

    @staticmethod
    def _now_s() -> float:
        return asyncio.get_running_loop().time()


def _short(detail: str) -> str:
    return detail[:_MOST_DETAIL].encode("utf-8", "replace").decode()
