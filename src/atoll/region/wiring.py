"""The parts of a region's node, and how they are connected.

Groups are built in the order in which they need each other: what decides, commits, links and recovery, requests,
background. A part is given what it calls; where two need each other, one of them gets a method of `Parts`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from atoll.causality.clock import HybridLogicalClock, stamp_ms
from atoll.causality.origin import incarnation_of, latest_of, of_region
from atoll.causality.types import Stamp
from atoll.commit.batch import Batch
from atoll.commit.identity import Identity
from atoll.commit.snapshot_page import KEPT_ASIDE, ShowRecord, check_merged
from atoll.documents.rules import Rules
from atoll.errors import ClockUnsafe
from atoll.membership.members import Members, Membership
from atoll.ownership.ownership import Ownership
from atoll.protocol import port
from atoll.recovery import relays
from atoll.recovery.relays import RelayState
from atoll.region.acceptor_sets import AcceptorSets
from atoll.region.clocks import Clocks
from atoll.region.commit_wait import CommitWait
from atoll.region.conflicts import Conflicts
from atoll.region.dangling import Dangling, Means
from atoll.region.decided_rules import decided_rules
from atoll.region.divergence import forked_entry
from atoll.region.driver import Actions, Driver, Performer
from atoll.region.event_log import EventLog
from atoll.region.event_retention import EventRetention
from atoll.region.feed import Feed
from atoll.region.forgetting import Forgetting
from atoll.region.freshness import Freshness
from atoll.region.gates import Gates
from atoll.region.group_commit import GroupCommit
from atoll.region.holders import Holders
from atoll.region.housekeeping import Housekeeping
from atoll.region.inheritance import Inheritance
from atoll.region.inheritance import Means as Heritage
from atoll.region.intake import Intake
from atoll.region.journal_sender import JournalSender
from atoll.region.local_writes import Checks, LocalWrites
from atoll.region.lost import Lost
from atoll.region.node_leases import NodeLeases
from atoll.region.progress import Progress
from atoll.region.proposer import Proposer
from atoll.region.purging import Purging
from atoll.region.reader import Reader
from atoll.region.receiving import Receiving, shared_work
from atoll.region.recovery import FailoverRecovery, RestoreRecovery, StartupCheck
from atoll.region.redeclaration import Redeclaration
from atoll.region.references import References
from atoll.region.registers import Registers
from atoll.region.releasing import Releasing
from atoll.region.resolving import resolver_of
from atoll.region.rights import Rights
from atoll.region.saga_acks import SagaAcks
from atoll.region.saga_driving import LEASE
from atoll.region.saga_retention import SagaRetention
from atoll.region.saga_rights import SagaRights
from atoll.region.sagas import Outlook, Requests, Sagas
from atoll.region.site import Site
from atoll.region.snapshot_install import SnapshotInstall
from atoll.region.snapshot_pages import SnapshotPages
from atoll.region.stability import Stability
from atoll.region.statistics import Statistics
from atoll.region.tasks import Background
from atoll.region.timeline import Timeline
from atoll.region.transactions import Transactions
from atoll.region.truncation import Truncation
from atoll.region.unfinished import Unfinished
from atoll.region.voting import Voting
from atoll.region.waits import Admission, Waits
from atoll.region.witnesses import Witnesses
from atoll.region.writer import Writer
from atoll.repair.digests import Digests
from atoll.replication.link import Link
from atoll.replication.signal import Signal
from atoll.rollout.redeclare import fingerprints
from atoll.schema.application import Application
from atoll.schema.bounds import bounds_of
from atoll.store.port import Store


class Parts(Receiving):
    """Of one node. `Region` offers what others may ask of them."""

    def __init__(
        self,
        site: Site,
        regions: Sequence[str],
        application: Application,
        store: Store,
        witnesses: Sequence[str] = (),
    ) -> None:
        self.witness = site.name in witnesses
        """Whether the region votes, and holds no documents."""
        if self.witness:
            application = Application(application.name, {})
            site = replace(site, options=replace(site.options, events_most=0, purge_s=0.0))
        self.site = site
        self.name = site.name
        self.application = application
        self.tables = [*application.stored, KEPT_ASIDE]
        """Collections that have one, and where pages of a snapshot are put aside."""
        self.store = store
        self.options = site.options
        self.now_ms = site.now_ms
        self.members = Members(Membership.of(regions, witnesses=witnesses))
        self.bounds = bounds_of(site.options.document_bytes, len(self.members.regions))
        self._own_at_first: dict[str, int] = {}
        """Its own positions when it was restored, or rewound: what came since is the peers' own account."""
        self._stored_rules = {
            name: Rules(schema, resolver_of(schema, site.options))
            for name, schema in application.stored.items()
        }
        self.rules: dict[str, Rules] = {name: self._stored_rules[name] for name in application.collections}
        """Of what a client may name: the team's collections."""
        self.gates = Gates(self.name)
        self.statistics = Statistics()
        self.freshness = Freshness(self.name)
        self.committed = Signal()
        self.clock = HybridLogicalClock(site.now_ms, 0, site.options.max_clock_offset_ms)
        self.clocks = Clocks(site, self.clock, self.members)
        self.ownership = Ownership(self.name, self.members, self.rules)
        self._wire_commits()
        self._wire_recovery()
        self._wire_gates()
        self._wire_requests()
        self._wire_escrow()
        self._wire_sagas()
        self._wire_background()
        self.background += self._dangling()

    def _wire_commits(self) -> None:
        """What makes changes durable."""
        self.progress = Progress(self.store, self._history_changed)
        self.timeline = Timeline(self.progress, self._history_changed)
        self.group_commit = GroupCommit(
            self.store,
            self._stored_rules,
            self.clock,
            self._identity,
            self.now_ms,
            progress=self.progress,
            timeline=self.timeline,
            options=self.options.group_commit,
        )
        self.intake = Intake(self.progress, self.group_commit.call, self.options.intake)
        gates = (self.timeline.check, check_merged, lambda view: self.gates.check_writes())
        self.commit_wait = CommitWait(self.site, self.rules, self.clocks, self.clock)
        admit = self.ownership.admit
        self.holders = Holders(self.site, self.rules, self.store, self.clock, admit)
        self.references = References(self.rules, self.store)
        checks = Checks(self.holders, self.references)
        self.local_writes = LocalWrites(self.group_commit, gates, admit, self.commit_wait, checks)
        self.group_commit.accompany(ShowRecord())
        self.group_commit.supply(self.intake.take)
        self.group_commit.listen(self._after_commit)
        self.progress.follow(self._after_move)

    def _wire_recovery(self) -> None:
        """Links to the peers, and the protocols that act on them."""
        self.links: dict[str, Link] = {
            peer: self._link(peer) for peer in self.members.current.linked(self.name)
        }
        performer = self._performer()
        patience_s = self.options.startup_check_s
        self.redeclaration = Redeclaration(
            performer.pages.fingerprints,
            performer,
            nonce=f"{self.site.random.getrandbits(48):x}",
            retry_s=self.options.housekeeping_s,
        )
        self.node_leases = NodeLeases(
            shared_work(self.links, self.application), self.store, performer, lease_s=self.options.lease_s
        )
        close_reads = partial(self.gates.closing, reads=True)
        close_writes = partial(self.gates.closing, reads=False)
        self.startup_check = StartupCheck(
            self.name,
            self.links,
            performer,
            close_writes,
            patience_s=patience_s,
            founding=self.options.founding,
        )
        self.lost = Lost(lambda: self.startup_check.ends() | self.inheritance.ends(), lambda: self.vector)
        self._relays = Driver(RelayState(self.name), relays.step, performer)
        self.restore = RestoreRecovery(self.name, self.links, performer, close_reads)
        self.failover = FailoverRecovery(
            self.name, self.links, performer, close_writes, patience_s=patience_s
        )
        self.snapshot_install = SnapshotInstall(performer, close_reads, self.store, self.now_ms, self.options)
        self.protocols: tuple[Callable[[port.MembersChanged], None], ...] = (
            self.startup_check.post,
            self.restore.post,
            self.failover.post,
            self.snapshot_install.post,
            self._relays.post,
        )
        """Those that wait for peers."""

    def _wire_gates(self) -> None:
        """What closes the region, and the acceptors, which promise nothing while promises may be lost."""
        gates = self.gates
        gates.register(reads=self.role)
        gates.register(reads=self.restore.reads)
        gates.register(reads=self.snapshot_install.reads, timed=self.options.shares_store)
        gates.register(writes=self.failover.writes, wait=self.failover.wait)
        gates.register(writes=self.startup_check.writes, wait=self.startup_check.wait)
        gates.keep_order(self.startup_check.orders, self.startup_check.wait_recovered)
        gates.register(writes=lambda: self.inheritance.over(), timed=True)  # noqa: PLW0108 - it comes later
        gates.register(writes=self.clocks.writes, timed=True, error=ClockUnsafe)
        gates.advise(writes=self.group_commit.trouble)
        self.voting = Voting(
            self.site,
            self.members,
            self.store,
            self.group_commit,
            numbering=lambda: self.startup_check.state.incarnation,
            check=self.timeline.check,
            refuse=lambda: self.restore.reads() or self.failover.writes() or self.startup_check.writes(),
        )
        self._decided_rules = decided_rules(self.application, self.rules, self._stored_rules)
        self.proposer = Proposer(
            self.site,
            self._decided_rules,
            self.store,
            self.clock,
            self.links,
            writes=self.local_writes,
            voting=self.voting,
            statistics=self.statistics,
        )
        self.acceptor_sets = AcceptorSets(self.site, self.store, self.proposer, self.node_leases)
        self.forgetting = Forgetting(self.site, self.store, self.proposer)

    def _wire_requests(self) -> None:
        """What answers clients and peers."""
        site, store, commits = self.site, self.store, self.group_commit
        self.waits = Waits(
            site,
            commits,
            peers=self.links,
            freshness=self.freshness,
            lost=self.lost,
            committed=self.committed,
            statistics=self.statistics,
        )
        admission = Admission(self.ownership, self.gates, self.waits, self.statistics)
        self.registers = Registers(
            site, store, proposer=self.proposer, progress=self.progress, admission=admission
        )
        self.reader = Reader(
            site,
            self.rules,
            self.links,
            store,
            group_commit=commits,
            admission=admission,
            registers=self.registers,
        )
        self.transactions = Transactions(
            site,
            self._decided_rules,
            store,
            self.clock,
            registers=self.registers,
            voting=self.voting,
            admission=admission,
        )
        self.writer = Writer(
            site,
            self.rules,
            self.links,
            store,
            writes=self.local_writes,
            admission=admission,
            transactions=self.transactions,
            origin=lambda: self.origin,
        )
        self.feed = Feed(
            self.name, store, commits, failover=self.failover, lost=self.lost, committed=self.committed
        )
        self.conflicts = Conflicts(self.rules, store, self.gates, self.writer.write)
        self.event_retention = EventRetention(store, commits, self.options)
        self.digests = Digests(self._stored_rules, store, self.event_retention.horizon_of)
        self.journal_sender = JournalSender(
            site,
            self.links,
            store,
            self.intake,
            failover=self.failover,
            let_go=self.snapshot_install.let_go,
            says=lambda: (self.freshness.as_of(), self.lost.ends(), self.gates.whole),
            committed=self.committed,
        )

    def _wire_escrow(self) -> None:
        """What follows the rights of bounded counters."""
        site, rules, members = self.site, self.rules, self.members
        parts = (self.registers, self.local_writes, self.intake, self.startup_check)
        self.rights = Rights(site, rules, members, self.links, self.store, escrow=self.writer.escrow)
        means = Heritage(*parts, self.links, self.snapshot_install)
        self.inheritance = Inheritance(site, members, rules, self.store, means)
        if self.rights.any:
            self.group_commit.listen(self.rights.committed)
            self.group_commit.listen(self.inheritance.committed)

    def _wire_sagas(self) -> None:
        """What runs for clients when they are gone, and tells people what happens."""
        self.events = EventLog(
            self.site,
            self.store.holder,
            links=self.links,
            held=self.holds,
            completed={
                "restored": lambda: int(not self.restore.pending),
                "failed-over": lambda: self.failover.state.taken_up,
                "snapshot-installed": lambda: self.snapshot_install.state.completed,
            },
            write=lambda write: self.writer.write(write, None),
        )
        self.group_commit.listen(self.events.committed)
        site, registers, commits = self.site, self.registers, self.local_writes
        self.stability = Stability(self.members, self.links, self.progress)
        rights = SagaRights(site, self.members, self.store, registers, self.progress, voting=self.voting)
        rights.settled = lambda: self.startup_check.state.settled
        self.sagas = Sagas(
            site,
            self.application,
            self.rules,
            self.store,
            requests=Requests(self.gates, self.reader, self.writer, registers, commits, self.transactions),
            outlook=Outlook(
                rights,
                SagaAcks(site, self.members, self.links, self.progress, lambda: self.origin),
                SagaRetention(site, self.store, registers, self.stability),
            ),
            held=lambda: self.node_leases.held.get(LEASE),
            stuck=lambda detail: self.events.record("saga-stuck", detail=detail),
        )
        if self.sagas.any:
            self.group_commit.listen(self.sagas.committed)

    def _wire_background(self) -> None:
        """What works beside requests; opened in this order."""
        self.truncation = Truncation(
            self.links,
            self.store,
            self.group_commit.commit,
            now_ms=self.now_ms,
            options=self.options,
            consumers=self.feed.held,
        )
        housekeeping = Housekeeping(self.site, self.store, self.group_commit, self.truncation)
        parts = (self.members, self.links, self.store, self.group_commit)
        self.purging = Purging(*parts, gates=self.local_writes.gates, every_s=self.options.purge_s)
        self.background: tuple[Background, ...] = (
            Background("leases", self.node_leases.run, self.node_leases.take),
            Background("start-up position check", self.startup_check.run, self._open_commits),
            Background("restore recovery", self.restore.run, self.restore.open),
            Background("another database", self.failover.run, self.failover.open),
            Background("catching up from a snapshot", self.snapshot_install.run, self.snapshot_install.open),
            Background("housekeeping", housekeeping.keep_store),
            Background("truncation of the journal", housekeeping.cut_journal),
            Background("new declarations", self.redeclaration.run),
        )
        self.unfinished = Unfinished(self.site, self.store, self.proposer, self.transactions)
        if self.witness:
            self.background += (
                Background("acceptors", self.acceptor_sets.run, self.voting.open),
                Background("values", Releasing(self.site, self.store, self.voting).run),
            )
        elif self.registers.any:
            self.group_commit.listen(self.voting.unshown.committed)
            self.background += (
                Background("acceptors", self.acceptor_sets.run, self.voting.open),
                Background("witnesses", Witnesses(self.site, self.members, self.voting).run),
                Background("unfinished transactions", self.unfinished.run),
                Background("registers of deleted documents", self.forgetting.run),
                Background("undecided writes", self.registers.tentative.run),
            )
        if self.options.purge_s:
            self.background += (Background("purging", self.purging.run),)
        if self.holders.any:
            self.group_commit.listen(self.holders.committed)
            settle = partial(self.holders.run, self.writer.write, self.local_writes.write)
            self.background += (Background("duplicates of unique values", settle),)
        if self.sagas.any:
            self.background += (Background("sagas", self.sagas.run),)
        if self.rights.any:
            self.background += (Background("rights", self.rights.run), self.inheritance.background())
        if self.options.shares_store:
            self.background += (Background("what other nodes brought", self.intake.ask_for_others),)
        if self.options.events_most:
            self.background += (
                Background("events", self.events.run, self.events.open),
                Background("retention of events", self.event_retention.run),
            )

    def role(self) -> str | None:
        """Why the region serves no documents, ever; None if it does."""
        if not self.witness:
            return None
        return f"{self.name} is a witness: it votes, and holds no documents; ask another region"

    def _dangling(self) -> tuple[Background, ...]:
        if not self.references.any:
            return ()
        means = Means(self.writer.write, self.local_writes.write, self.snapshot_install)
        dangling = Dangling(self.site, self.references, self.store, self.stability, means)
        self.group_commit.listen(dangling.committed)
        return (Background("references to what was deleted", dangling.run),)

    async def _open_commits(self) -> None:
        await self.group_commit.open()
        self._own_at_first = of_region(self.vector, self.name)
        await self.startup_check.open()

    def _performer(self) -> Performer:
        pages = SnapshotPages(
            self.name,
            self._stored_rules,
            self.store,
            self.site.peers,
            fingerprints=fingerprints(self.application),
            most_rows=self.options.snapshot_page_rows,
        )
        actions = Actions(
            self._rewind,
            self._forked_entry,
            self._trust,
            claim=lambda lease: self.node_leases.claim(lease),  # noqa: PLW0108 - they come later
            release=lambda lease: self.node_leases.release(lease),  # noqa: PLW0108
            held=lambda: self.node_leases.held,
        )
        return Performer(self.name, self.store, self.group_commit, self.links, pages, actions, self.now_ms)

    # -- another database ------------------------------------------------------------------------------

    def _history_changed(self, history: str, lossy: bool = False) -> None:
        turns = self.failover.state.turns
        self.failover.history_changed(history, lossy=lossy)
        if self.failover.state.turns != turns:
            self.snapshot_install.replaced()

    async def _rewind(self) -> int:
        await self.store.open_collections(self.tables)  # those that were made last may be missing, too
        clock = await self.progress.rewind()
        self._own_at_first = of_region(self.vector, self.name)
        self.freshness.forget()
        self.startup_check.replaced()
        return stamp_ms(Stamp(clock))

    async def _forked_entry(self) -> str:
        held = {peer: link.status.advertised for peer, link in self.links.items() if link.status.connected}
        return await forked_entry(self.store, self._own_at_first, self.lost.ends(), held, self.site.ask)

    def _trust(self, history: str) -> None:
        self.timeline.trust(history)
        if self.failover.state.taken_up:
            self.startup_check.replaced()  # taking a history up begins an incarnation
        self.committed.notify()

    # -- commits ---------------------------------------------------------------------------------------

    def _identity(self) -> Identity:
        return Identity(
            self.origin,
            self.members.regions,
            self.clocks.uncertainty_ms,
            self.bounds.document_bytes,
            self.bounds.entry_bytes,
            self.inheritance.former,
            self.inheritance.heirs,
            self.inheritance.inherits,
            purges=bool(self.options.purge_s),
            floor=self.startup_check.state.floor,
        )

    def _after_commit(self, batch: Batch) -> None:
        self.statistics.committed(batch, self.now_ms())

    def _after_move(self, before: dict[str, int], vector: dict[str, int]) -> None:
        if len(vector) > len(before):
            self.members.remember(vector)
            latest, known = latest_of(vector, self.name), self.startup_check.state.known
            if known and incarnation_of(latest) > incarnation_of(self.origin):
                self.startup_check.replaced()  # another node may have begun an incarnation
        self.freshness.moved(vector)
        self.committed.notify()
