"""The production composition root: one node of a region, with the real clock, disk, network and randomness.

Everything below takes these as parameters; the simulator's root is `atoll.testing`.
"""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random, SystemRandom
from types import TracebackType

from atoll.causality.token import TokenCodec, token_numbers
from atoll.causality.types import RegionName
from atoll.causality.uncertainty import kernel_uncertainty_ms
from atoll.config.config import Config
from atoll.config.deployment_key import deployment_key
from atoll.errors import ConfigError
from atoll.http.app import App
from atoll.http.guard import Guard
from atoll.http.sessions import Sessions
from atoll.ids import IdService, region_number
from atoll.membership.members import Membership
from atoll.node.watchdog import Watchdog
from atoll.region.options import RegionOptions
from atoll.region.region import Region
from atoll.region.site import Site
from atoll.replication.emulation import Emulation
from atoll.replication.http_peers import HttpPeers
from atoll.replication.wire import derive_key
from atoll.schema.application import Application
from atoll.schema.loading import load_application
from atoll.store.port import Store
from atoll.store.postgresql.url import is_postgresql
from atoll.store.sqlite.store import open_sqlite


def unix_ms() -> int:
    return time.time_ns() // 1_000_000


_ELAPSED = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""Goes on while the machine sleeps, where the system has such a clock."""


def elapsed_ms() -> float:
    return time.clock_gettime_ns(_ELAPSED) / 1e6


class Node:
    """Opens the store when it is made, so that a second process on the same data fails at once.

    Raises ConfigError, StoreLocked, StoreUnwritable, StoreCorrupt, DeclarationError.
    """

    def __init__(
        self, config: Config, region: str, *, application: Application | None = None, number: int = 1
    ) -> None:
        """`number`: of this node among the region's."""
        self.config = config
        self.settings = config.member(region)
        if application is None and self.settings.witness:
            application = Application(config.name, {})  # what is declared is of no concern to it
        self.application = application or load_application(Path(config.app), limits=config.limits)
        self._check_placement(config)
        key = deployment_key(config)
        self._now_ms: Callable[[], int] = self._emulated_ms if config.emulated else unix_ms
        self.store = open_store(config, region, number)
        self.emulation = Emulation(region, lambda peer: self.config.rtt_ms(region, peer) / 2000)
        if len(config.regions) + len(config.witnesses) > 1:
            importlib.import_module("aiohttp")  # now, since it takes long: see `HttpPeers`
        link_key = derive_key(key, "links")
        self._peers = HttpPeers(region, self._urls, derive_key(key, "calls"), self._now_ms, self.emulation)
        site = Site(
            RegionName(region),
            self._peers,
            link_key,
            self._now_ms,
            Random(SystemRandom().getrandbits(64)),
            self._kernel_uncertainty_ms,
            replace(
                options_of(config),
                shares_store=is_postgresql(self.settings.store),
                read_leases=len(self.settings.nodes) < 2,
            ),
            elapsed_ms,
        )
        self.region = Region(
            site, config.region_names, self.application, self.store, witnesses=config.witness_names
        )
        self._watchdog: Watchdog | None = None
        codec = TokenCodec(key, config.name, lambda: self.region.membership.origins)
        self.sessions = Sessions(self.region, codec)
        self.app = App(
            self.region,
            self.sessions,
            self.emulation,
            self._ids(),
            link_key=derive_key(key, "calls"),
            url=self.settings.url,
            test_topology=config.emulated,
            guard=guard_of(config, region),
        )

    async def follow(self, config: Config) -> None:
        """Go on with the regions, addresses and emulation of another configuration; the rest stays.

        Raises ConfigError, and nothing has changed then.
        """
        config.member(self.region.name)
        self._check_placement(config)
        before = self.region.membership
        to = before.of_regions(config.region_names, config.witness_names)
        self._check_witnesses(config.source, before, to)
        token_numbers(to.origins)
        if self._number(config) != self._number(self.config):
            raise ConfigError(
                f"{config.source}: identifiers of {self.region.name} would get another number;"
                " give each region a `number`"
            )
        self.config = config
        self.app.guard = guard_of(config, self.region.name)
        if to.voters != before.voters:
            await self.region.change_members(to)

    def _check_witnesses(self, source: Path, before: Membership, to: Membership) -> None:
        """Raises ConfigError for a region whose store would have to become another kind."""
        turned = {*before.witnesses} & {*to.regions} | {*before.regions} & {*to.witnesses}
        if turned:
            raise ConfigError(
                f"{source}: {', '.join(sorted(turned))} cannot become a witness, or cease to be one; remove the region"
                " first, and add it anew with an empty store"
            )

    def _urls(self, peer: str) -> Sequence[str]:
        return next(
            (each.urls for each in (*self.config.regions, *self.config.witnesses) if each.name == peer), ()
        )

    def _emulated_ms(self) -> int:
        """The clock of a region on a test topology, which may be off."""
        return unix_ms() + self.config.clock_offset_ms(self.settings.name)

    def _kernel_uncertainty_ms(self) -> int | None:
        """The kernel says nothing of a clock that is made to be off."""
        return None if self.config.clock_offset_ms(self.settings.name) else kernel_uncertainty_ms()

    def _check_placement(self, config: Config) -> None:
        unknown = set(self.application.regions()) - set(config.region_names)
        if unknown:
            raise ConfigError(
                f"{config.app} places documents in {', '.join(sorted(unknown))}, and {config.source} has no such region"
            )

    def _number(self, config: Config) -> int:
        """Of the region, in identifiers. A witness makes none."""
        if self.settings.witness:
            return 0
        explicit = {each.name: each.number for each in config.regions if each.number is not None}
        return region_number(config.region_names, self.settings.name, explicit)

    def _ids(self) -> IdService:
        return IdService(
            self.region.name,
            region_number=self._number(self.config),
            claim=self.region.claim,
            clock=self._now_ms,
            random=os.urandom,
            counters=self.store,
        )

    async def __aenter__(self) -> Node:
        try:
            await self.region.start()
        except BaseException:
            await self.store.close()
            raise
        self._watchdog = Watchdog(self.region.note_stall)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.app.closing.set()
        if self._watchdog is not None:
            self._watchdog.close()
        await self.region.stop()
        await self._peers.close()
        await self.store.close()


def open_store(config: Config, region: str, node: int = 1) -> Store:
    """The store that atoll.toml names. Raises as `open_sqlite` and `open_postgresql` do."""
    store = config.member(region).store
    if is_postgresql(store):
        from atoll.store.postgresql.store import open_postgresql

        return open_postgresql(store, region=region, deployment=config.name, node=node)
    return open_sqlite(config.region_data(region), region=region, deployment=config.name)


def guard_of(config: Config, region: str) -> Guard:
    """Which hosts and origins the region serves."""
    given = config.deployment
    return Guard(config.member(region).urls, given.allowed_hosts, given.allowed_origins)


def options_of(config: Config) -> RegionOptions:
    """What atoll.toml says, over the defaults."""
    given = config.deployment
    return RegionOptions(
        max_clock_offset_ms=given.max_clock_offset_ms,
        require_synchronised_clocks=given.require_synchronised_clocks,
        document_bytes=config.limits.document_bytes,
        idempotency_s=given.idempotency_hours * 3600.0,
        audit_s=given.audit_days * 86_400.0,
        audit_most=given.audit_max,
        events_s=given.events_days * 86_400.0,
        events_most=given.events_max,
        sagas_s=given.sagas_days * 86_400.0,
        inherit_s=given.heir_minutes * 60.0,
        journal_s=given.journal_hours * 3600.0,
        journal_round_s=min(60.0, max(1.0, given.journal_hours * 3600.0 / 16)),
        journal_absent_s=given.journal_absent_hours * 3600.0,
        journal_most_bytes=None if given.journal_max_gb is None else int(given.journal_max_gb * 1e9),
    )
