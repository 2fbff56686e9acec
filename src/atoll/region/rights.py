"""What regions hold of the bounded counters that are written, and rights that move here ahead of need.

The counters of each commit are looked at soon after it, beside the requests. So a sale costs no more.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from itertools import islice
from typing import Any, Final, NamedTuple

from atoll.commit.batch import Batch
from atoll.commit.identity import Address
from atoll.documents import document as documents
from atoll.documents.rules import Rules, in_life
from atoll.errors import AtollError
from atoll.lattices.base import Escrowed
from atoll.membership.members import Members
from atoll.ownership.demand import Demand, Holdings
from atoll.ownership.escrow import Escrow
from atoll.region.site import Site
from atoll.region.tasks import Tasks
from atoll.replication.link import Link
from atoll.replication.signal import Signal
from atoll.store.port import Documents

_EVERY_S: Final = 0.25
"""What was written in so long is looked at together."""
_AT_ONCE: Final = 50
"""Of so many documents at a time: to look at one takes about as long as to write it."""
_FOLLOWED: Final = 1000
"""Of so many documents that were written last a node knows the rights."""
_AT_FIRST: Final = 200
"""So many documents of each collection are looked at after a start."""
_SHOWN: Final = 10
_AGAIN_S: Final = 1.0
"""A counter's rights are asked for once in so long: by then its state shows what came."""
_ASKING: Final = 16
"""Counters that rights are asked for at once."""

_Field = tuple[str, str, str]
"""(collection, key, field)"""


class Counter(NamedTuple):
    """What is known of one bounded counter."""

    collection: str
    key: str
    field: str
    left: int
    rights: Mapping[str, int]
    spent_per_s: Mapping[str, float]
    lasts_s: float | None
    """How long this region's rights last; None while it sells nothing."""


class Rights:
    """Of one node."""

    def __init__(
        self,
        site: Site,
        rules: Mapping[str, Rules],
        members: Members,
        links: Mapping[str, Link],
        store: Documents,
        *,
        escrow: Escrow,
    ) -> None:
        self._site = site
        self._rules = rules
        self._lattices: dict[str, dict[str, Escrowed[Any]]] = {
            name: found
            for name, each in rules.items()
            if not each.schema.policy.by_quorum
            and (found := {f: lat for f, lat in each.lattices.items() if isinstance(lat, Escrowed)})
        }
        """Collection → field → its kind. Whether it is of that kind takes long to find out."""
        self._members = members
        self._links = links
        self._store = store
        self._escrow = escrow
        self._written: dict[Address, None] = {}
        self._signal = Signal()
        self._followed: OrderedDict[Address, dict[str, Demand]] = OrderedDict()
        """Document → field → what is known of it; the one that was written last comes last."""
        self._asked_s: dict[_Field, float] = {}
        self._tasks = Tasks()

    @property
    def any(self) -> bool:
        """Whether any collection has such counters."""
        return bool(self._lattices)

    def committed(self, batch: Batch) -> None:
        """Take note of the counters that a commit has changed."""
        before = len(self._written)
        for entry in (*batch.written, *batch.applied):
            for change in entry.changes:
                if change.collection in self._lattices and len(self._written) < _FOLLOWED:
                    self._written[change.collection, change.key] = None
        if not before and self._written:
            self._signal.notify()

    async def run(self) -> None:
        """For ever."""
        try:
            await self._look_at_first()
            while True:
                if not self._written:
                    await self._signal.wait()
                await asyncio.sleep(_EVERY_S)
                await self.review()
        finally:
            await self._tasks.close()

    async def review(self) -> None:
        """Look at the counters that have waited longest since they were written: as many as cost little."""
        for address in list(islice(self._written, _AT_ONCE)):
            del self._written[address]
            try:
                await self._look(address)
            except AtollError:
                continue  # the store fails at present
            for field, demand in self._followed.get(address, {}).items():
                self._provide((*address, field), demand)

    @property
    def counters(self) -> int:
        """How many are followed."""
        return sum(map(len, self._followed.values()))

    @property
    def exhausted(self) -> int:
        """How many of them this region holds no right of, while others hold some."""
        own = self._site.name
        followed = (demand.holdings for fields in self._followed.values() for demand in fields.values())
        return sum(not each.rights.get(own, 0) and each.left > 0 for each in followed)

    def scarcest(self) -> list[Counter]:
        """Those that last for the shortest time here, and then those of which least is left: a few."""
        now_s = self._now_s()
        found = [
            self._counter((*address, field), demand, now_s)
            for address, fields in self._followed.items()
            for field, demand in fields.items()
        ]
        return sorted(found, key=_scarcity)[:_SHOWN]

    def _counter(self, name: _Field, demand: Demand, now_s: float) -> Counter:
        rights, lasts_s = demand.holdings.rights, demand.lasts_s(self._site.name, now_s)
        rates = {region: round(demand.per_s(region, now_s), 2) for region in rights}
        shown_s = None if lasts_s is None or lasts_s > 1e6 else round(lasts_s, 1)
        return Counter(*name, demand.holdings.left, rights, rates, shown_s)

    # -- looking ---------------------------------------------------------------------------------------

    async def _look_at_first(self) -> None:
        for collection in self._lattices:
            try:
                rows, _ = await self._store.scan(collection, limit=_AT_FIRST)
                for key, _ in rows:
                    await self._look((collection, key))
            except AtollError:
                continue  # the counters are looked at once they are written

    async def _look(self, address: Address) -> None:
        row = await self._store.get(*address)
        if row is None or row.value is None:
            self._followed.pop(address, None)
            return
        rules, now_s = self._rules[address[0]], self._now_s()
        document = documents.decode_row(rules, row)
        fields = self._followed.setdefault(address, {})
        self._followed.move_to_end(address)
        for field, lattice in self._lattices[address[0]].items():
            state = document.lattices.get(in_life(field, document.life))
            state = lattice.empty() if state is None else state
            regions = self._members.regions
            holdings = Holdings(
                {region: lattice.rights(state, region, self._members.heirs) for region in regions},
                {region: lattice.spent(state, region) for region in regions},
                lattice.left(state),
            )
            if field in fields:
                fields[field].look(holdings, now_s)
            else:
                fields[field] = Demand(holdings, now_s)
        while len(self._followed) > _FOLLOWED:
            self._followed.popitem(last=False)

    # -- asking ----------------------------------------------------------------------------------------

    def _provide(self, name: _Field, demand: Demand) -> None:
        """Ask for rights where they will run short."""
        now_s = self._now_s()
        self._asked_s = {each: at_s for each, at_s in self._asked_s.items() if now_s - at_s < _AGAIN_S}
        if name in self._asked_s or len(self._asked_s) >= _ASKING:
            return
        reached = [peer for peer, link in self._links.items() if link.status.connected]
        wanted = demand.wanted(self._site.name, reached, now_s)
        if wanted is not None:
            self._asked_s[name] = now_s
            self._tasks.spawn(self._ask(name, *wanted), f"asks for rights of {'/'.join(name)}")

    async def _ask(self, name: _Field, peer: str, amount: int) -> None:
        try:
            await self._escrow.ask_ahead(name, peer, amount)
        except AtollError:
            return  # cut off: what is held here is sold

    @staticmethod
    def _now_s() -> float:
        return asyncio.get_running_loop().time()


def _scarcity(counter: Counter) -> tuple[float, int, str, str]:
    lasts_s = float("inf") if counter.lasts_s is None else counter.lasts_s
    return lasts_s, counter.left, counter.collection, counter.key
