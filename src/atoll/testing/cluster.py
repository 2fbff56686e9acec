"""The second composition root: whole regions in one process, on virtual time, from one seed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from io import BytesIO
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from atoll.backup.archive import ArchiveReader, Header
from atoll.backup.backup import restored_chunks, write_archive
from atoll.causality import vector as vectors
from atoll.causality.types import RegionName
from atoll.conflicts.guard import GuardOptions
from atoll.errors import AtollError, Indefinite, RegionUnreachable
from atoll.ids import IdService, region_number
from atoll.region.options import RegionOptions
from atoll.region.region import Region
from atoll.region.site import Site
from atoll.replication.wire import derive_key
from atoll.schema.application import Application
from atoll.store.port import AuditFilter
from atoll.testing.clocks import EPOCH_MS, NodeClock
from atoll.testing.disk import Connection, SimulatedDisk
from atoll.testing.network import SimulatedNetwork
from atoll.testing.torn_files import TornMedium
from atoll.testing.virtual_time import Life, VirtualLoop

T = TypeVar("T")
_ALL = 1 << 60

_RESTART_S = 0.5
KEY = b"a key for simulated deployments only"
OPTIONS = RegionOptions(guard=GuardOptions(wall_s=600.0), events_most=0, purge_s=1.0)
"""The defaults; but a slow machine must not change what a resolver comes to, and nothing but the test writes."""


class NotSettled(AssertionError):
    """The regions did not agree within the time that they had."""


class SimulatedNode:
    """A machine of one region: its disk and clock stay, its process comes and goes."""

    def __init__(
        self, cluster: Cluster, name: str, disk: SimulatedDisk, clock: NodeClock, options: RegionOptions
    ) -> None:
        self.name = name
        """The region's, if it has one node; else with a number, as in `tokyo/2`."""
        self.disk = disk
        """Of its region: nodes of one region share it."""
        self.connection = Connection(name)
        self.clock = clock
        self.options = options
        self.application = cluster.application
        self.kernel_uncertainty_ms: int | None = None
        self.kernel_margin_ms: int | None = None
        """The kernel knows how far off the clock is, and claims so much more. None: `kernel_uncertainty_ms` holds."""
        self.make_tables()
        self.life: Life | None = None
        self.region: Region | None = None
        self.ids: IdService | None = None
        self.runs = 0
        self.mounted: Callable[[str, Mapping[str, int]], None] | None = None
        """Told the region and its vector whenever a run begins."""
        self._cluster = cluster
        self._asked: dict[asyncio.Future[Any], None] = {}
        self._opened = asyncio.Event()

    def make_tables(self) -> None:
        """Checkers may look before the node does."""
        self.disk.store.open_collections(self.application.stored)

    @property
    def running(self) -> bool:
        return self.life is not None

    @property
    def settled(self) -> bool:
        """Whether it runs, knows of all that it stores, and stores it as its declarations say."""
        return (
            self.region is not None
            and not self.due
            and not (self.region.snapshot_install.pending or self.region.snapshot_install.state.late)
            and self.region.group_commit.progress.vector == self.disk.store.positions()
        )

    @property
    def pulled(self) -> list[str]:
        """The peers whose entries this node of its region pulls."""
        region = self.region
        return [] if region is None else [peer for peer in region.links if region.holds(peer)]

    @property
    def due(self) -> list[str]:
        """Collections that are not yet stored as its declarations say."""
        return [] if self.region is None else sorted(self.region.redeclaration.due(self.disk.store.schemas()))

    def start(self) -> None:
        """Begin a run on what the disk holds."""
        if self.life is not None:
            return
        cluster = self._cluster
        self.runs += 1
        self.life = life = Life(cluster.loop, self.name, self.runs, self.disk.region)
        store = self.disk.mount(life, self.connection)
        if self.mounted is not None:
            self.mounted(self.disk.region, self.disk.store.positions())
        site = Site(
            RegionName(self.disk.region),
            cluster.network.peers(life),
            derive_key(KEY, "links"),
            self.clock,
            cluster.split(f"region {self.name} run {self.runs}"),
            self._kernel_ms,
            self.options,
        )
        self.region = region = life.run(
            Region, site, cluster.names, self.application, store, cluster.witnesses
        )
        self.ids = IdService(
            region.name,
            region_number=region_number(cluster.members, region.name, None),
            claim=region.claim,
            clock=self.clock,
            random=cluster.split(f"ids of {self.name} run {self.runs}").randbytes,
            counters=store,
        )
        self._opened = opened = asyncio.Event()
        life.spawn(self._open(life, region, opened), f"{self.name}: start")

    def _kernel_ms(self) -> int | None:
        if self.kernel_margin_ms is None:
            return self.kernel_uncertainty_ms
        return abs(self.clock.offset_ms) + 1 + self.kernel_margin_ms

    async def _open(self, life: Life, region: Region, opened: asyncio.Event) -> None:
        """As whoever supervises a node would: again, until its database answers."""
        while True:
            try:
                await region.start()
            except AtollError:
                await asyncio.sleep(_RESTART_S)
            else:
                break
        self._cluster.network.attach(life, region)
        opened.set()

    def kill(self) -> None:
        """`kill -9`: whatever it was at, it does not go on."""
        if self.life is None:
            return
        life, self.life, self.region, self.ids = self.life, None, None, None
        self._cluster.loop.kill(life)
        self._cluster.network.detach(life)
        self.disk.queue.give(life)
        for future in list(self._asked):
            if not future.done():
                future.set_exception(Indefinite(f"{self.name} was killed before it answered"))
        self._asked.clear()

    async def ask(self, work: Callable[[Region], Awaitable[T]]) -> T:
        """What a client does with this region. Raises RegionUnreachable, Indefinite, and what `work` raises."""
        if self.life is None or self.region is None:
            raise RegionUnreachable(f"{self.name} is down", region=self.disk.region)
        future: asyncio.Future[T] = self._cluster.loop.create_future()
        region, opened = self.region, self._opened

        async def run() -> None:
            await opened.wait()
            try:
                result = await work(region)
            except Exception as error:
                if not future.done():
                    future.set_exception(error)
            else:
                if not future.done():
                    future.set_result(result)

        self._asked[future] = None
        self.life.spawn(run(), f"{self.name}: serves a client")
        try:
            return await future
        finally:
            self._asked.pop(future, None)


class Cluster:
    """Create it inside a `VirtualLoop`; every random choice below it comes from `seed`."""

    def __init__(
        self,
        application: Application,
        names: Sequence[str] = ("tokyo", "frankfurt", "virginia"),
        *,
        seed: int | str = 0,
        one_way_s: float | Mapping[tuple[str, str], float] = 0.05,
        options: RegionOptions = OPTIONS,
        files: bool = False,
        nodes: Mapping[str, int] = {},
        witnesses: Sequence[str] = (),
    ) -> None:
        """`files`: each region keeps a real SQLite database on files that can be torn; `close` removes them.

        `nodes`: regions that have several, on one database in memory: they are called `tokyo/1`, `tokyo/2`, …

        `witnesses` vote, and hold no documents: they are not among `names`.
        """
        loop = asyncio.get_running_loop()
        if not isinstance(loop, VirtualLoop):
            raise TypeError("a simulated cluster runs in a VirtualLoop; see atoll.testing.simulated")
        self.loop = loop
        self.application = application
        self.files = files
        self.names = tuple(sorted(names))
        self.witnesses = tuple(sorted(witnesses))
        self.members = (*self.names, *self.witnesses)
        self.seed = seed
        self.network = SimulatedNetwork(loop, self.split("network"))
        self.nodes: dict[str, SimulatedNode] = {}
        """By their own names."""
        self.by_region: dict[str, list[SimulatedNode]] = {}
        """Region → its nodes."""
        self.gone: dict[str, list[SimulatedNode]] = {}
        """Those of regions that have left."""
        for region in self.members:
            count = nodes.get(region, 1)
            disk = SimulatedDisk(region, self.split(f"disk of {region}"), self.kill, shared=count > 1)
            if disk.shared:
                disk.trip_s = 0.0
            elif self.files:
                disk.medium = TornMedium(region)
            names = [f"{region}/{number}" for number in range(1, count + 1)] if disk.shared else [region]
            own = replace(options, shares_store=disk.shared, read_leases=not disk.shared, founding=True)
            self.by_region[region] = [
                SimulatedNode(self, name, disk, NodeClock(loop.time), own) for name in names
            ]
            self.nodes.update({node.name: node for node in self.by_region[region]})
        for source, target in self.pairs():
            delay = one_way_s if isinstance(one_way_s, float | int) else one_way_s[(source, target)]
            self.network.path(source, target).delay_s = delay

    @property
    def keepers(self) -> list[SimulatedNode]:
        """The nodes of regions that hold documents."""
        return [node for name in self.names for node in self.by_region[name]]

    def split(self, concern: str) -> Random:
        """A generator of its own for each concern, so that a draw more in one shifts nothing in another."""
        return Random(f"{self.seed}/{concern}")

    def pairs(self) -> Iterator[tuple[str, str]]:
        """Every direction."""
        return ((one, other) for one in self.members for other in self.members if one != other)

    def __getitem__(self, name: str) -> SimulatedNode:
        """A node; by its region's name the first of the region's that run, or the first."""
        node = self.nodes.get(name)
        if node is None:
            node = next((each for each in self.by_region[name] if each.running), self.by_region[name][0])
        return node

    def of(self, name: str) -> list[SimulatedNode]:
        """All nodes of a region; or the one that is called so."""
        return [self.nodes[name]] if name in self.nodes else list(self.by_region[name])

    def pick(self, region: str, random: Random) -> SimulatedNode:
        """One of a region's nodes, of those that run if any does. A region's only node costs no draw."""
        nodes = self.by_region[region]
        if len(nodes) == 1:
            return nodes[0]
        return random.choice([node for node in nodes if node.running] or nodes)

    def region(self, name: str) -> Region:
        """Raises RegionUnreachable while its node is down; or all, by the region's name."""
        region = self[name].region
        if region is None:
            raise RegionUnreachable(f"{name} is down", region=name)
        return region

    def start(self, *names: str) -> None:
        """Start some nodes, or all nodes of some regions, or all."""
        for name in names or self.members:
            for node in self.of(name):
                node.start()

    def kill(self, name: str) -> None:
        """A node, or all of a region."""
        for node in self.of(name):
            node.kill()

    def restart(self, name: str) -> None:
        self.kill(name)
        self.start(name)

    def upgrade(self, name: str, application: Application) -> None:
        """Restart with other declarations."""
        for node in self.of(name):
            node.application = application
        self.restart(name)

    def lose_disk(self, region: str) -> None:
        """Kill a region's nodes and take its disk away: they start again with an empty one."""
        self.kill(region)
        self[region].disk.lose()
        for node in self.of(region):
            node.options = replace(node.options, founding=False)
            node.make_tables()

    async def back_up(self, region: str) -> bytes:
        """An archive of a region's data, as `atoll backup` makes it on a machine whose clock is right."""
        disk, archive = self[region].disk, BytesIO()
        header = Header("simulation", disk.region, self.now_ms(), "simulated")
        await write_archive(disk.medium.opened(), archive, header)
        return archive.getvalue()

    async def restore(self, region: str, archive: bytes) -> None:
        """Kill a region's nodes, and put what an archive holds in the place of its data, as `atoll restore` does."""
        self.kill(region)
        disk, reader = self[region].disk, ArchiveReader(BytesIO(archive), Path("simulated.atoll"))
        disk.empty()
        await disk.medium.opened().fill(restored_chunks(reader, self.now_ms(), ()))
        disk.tell_replaced("restored")
        for node in self.of(region):
            node.make_tables()

    def now_ms(self) -> int:
        """The true time, as unix milliseconds."""
        return EPOCH_MS + round(self.loop.time() * 1000)

    def close(self) -> None:
        """Dispose of the disks."""
        for node in (*self.nodes.values(), *(each for gone in self.gone.values() for each in gone)):
            node.disk.medium.close()

    def partition(self, *groups: Sequence[str]) -> None:
        """Nothing passes between regions of different groups; regions in no group form one of their own."""
        rest = [name for name in self.members if not any(name in group for group in groups)]
        side = {name: number for number, group in enumerate((*groups, rest)) for name in group}
        for source, target in self.pairs():
            if side[source] != side[target]:
                self.network.cut(source, target)
            else:
                self.network.heal(source, target)

    def heal(self) -> None:
        """All nodes up, all paths whole, all disks healthy; clocks stay as they are."""
        self.network.heal_all()
        for node in self.nodes.values():
            faults = node.disk.faults
            node.connection.cut = 0.0
            faults.refusal, faults.failing, faults.tear, faults.cut = "", 0.0, 0.0, 0.0
            faults.kill_before = faults.kill_after = 0.0
            faults.sync_s = min(faults.sync_s, 0.001)
            node.start()

    async def settle(self, within_s: float = 60.0) -> float:
        """Wait until all regions have seen the same. Returns the seconds it took; raises NotSettled."""
        began = self.loop.time()
        while True:
            first, *others = (self[name].disk.store.positions() for name in self.names)
            if all(node.settled for node in self.nodes.values()) and all(each == first for each in others):
                return self.loop.time() - began
            if self.loop.time() - began >= within_s:
                raise NotSettled(f"after {within_s:g} s: " + self.describe_lag())
            await asyncio.sleep(0.05)

    def newest(self) -> dict[str, int]:
        """The vector that covers all that is stored anywhere."""
        stored = (self[name].disk.store.positions() for name in self.names)
        return reduce(vectors.merge, stored, {})

    def describe_lag(self) -> str:
        """Who misses what, and what their links say."""
        lines = []
        newest = self.newest()
        for name, node in self.nodes.items():
            if node.running and name in self.witnesses:
                continue
            missing = vectors.missing(node.disk.store.positions(), newest)
            if node.region is None:
                lines.append(f"{name} is down")
            elif node.region.snapshot_install.pending:
                lines.append(node.region.snapshot_install.state.reason)
            elif not missing and node.due:
                lines.append(f"{name} has not yet taken up the declarations of {node.due}")
            elif not missing and not node.settled:
                lines.append(f"{name} does not know of {vectors.missing(node.region.vector, newest)}")
            elif missing:
                intake = node.region.intake
                links = ", ".join(
                    f"{peer} {'up' if link.status.connected else link.status.last_error}"
                    for peer, link in node.region.links.items()
                )
                lines.append(
                    f"{name} misses {missing}; blocked on {intake.inbox.blocked_on(node.region.vector)}; "
                    f"held: {intake.held and intake.held.message}; links: {links}"
                )
        return "; ".join(lines) or "all have the same entries"

    async def digests(self, name: str) -> dict[str, dict[str, bytes]]:
        """collection → digest of every bucket, as `atoll verify` compares them."""
        region = self.region(name)
        return {
            collection: (await region.digests.of(collection)).digests
            for collection in sorted(self[name].application.stored)
        }

    def shown(self, name: str) -> dict[tuple[str, str], bytes]:
        """Every visible document of a region."""
        store = self[name].disk.store
        declared = self[name].application.stored
        return {
            (collection, key): row.value
            for collection in sorted(declared)
            for key, row in store.scan_all(collection, limit=_ALL, limit_bytes=_ALL)
            if row.value is not None
        }

    def audit(self, name: str) -> dict[str, bytes]:
        """Every conflict record of a region: id → body."""
        rows = self[name].disk.store.conflicts(AuditFilter(), limit=_ALL, limit_bytes=_ALL)
        return {row.id: row.body for row in rows}


def simulated(main: Callable[[], Awaitable[T]]) -> T:
    """Run an async function on virtual time: `simulated(lambda: my_test())`."""

    async def run() -> T:
        return await main()

    return VirtualLoop().run_simulation(run())
