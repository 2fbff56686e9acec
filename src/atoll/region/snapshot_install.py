"""Snapshot install at one node, as `recovery.snapshot_install` decides on it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from atoll.protocol import hear
from atoll.recovery.snapshot_install import (
    SURE_FOR,
    Opened,
    TooLate,
    step,
)
from atoll.recovery.snapshot_record import Record
from atoll.recovery.snapshot_state import InstallState, Settings
from atoll.region.driver import Driver, Performer
from atoll.region.options import RegionOptions
from atoll.region.snapshot_pages import BORN
from atoll.store.port import Store


class SnapshotInstall:
    """Of one node. `open` it with the store, then `run` it."""

    def __init__(
        self,
        performer: Performer,
        store: Store,
        now_ms: Callable[[], int],
        options: RegionOptions,
        *,
        closed: Callable[[], None],
    ) -> None:
        """`closed` is called when reads and writes are closed that were open."""
        self._closed = closed
        self._store = store
        self._now_ms = now_ms
        settings = Settings(
            performer.region,
            tuple(sorted(performer.links)),
            performer.pages.declared,
            lease_s=options.lease_s,
            grace_s=options.snapshot_grace_s,
            retry_s=options.snapshot_retry_s,
            timeout_s=options.peer_timeout_s,
            shares_store=options.shares_store,
        )
        self._driver = Driver(InstallState(settings), step, performer, self._changed)
        self.run = self._driver.run
        self.page = performer.pages.page

    async def open(self) -> None:
        """Look whether an earlier run has not finished. Raises what the store raises."""
        if not await self._store.counter(BORN):
            await self._store.raise_counter(BORN, self._now_ms())
        self._driver.post(Opened(Record.of(await self._store.schemas())))

    def members_changed(self, peers: frozenset[str]) -> None:
        """These are the peers by now."""
        self._driver.post(hear.MembersChanged(peers))

    def too_late(self, peer: str, past: Mapping[str, int]) -> None:
        """A peer's journal no longer holds what comes next here."""
        self._driver.post(TooLate(peer, past))

    @property
    def pending(self) -> bool:
        """Whether the region holds back."""
        return self._driver.state.pending

    @property
    def pulling(self) -> bool:
        """Whether pages are fetched: no entries are, meanwhile."""
        return self._driver.state.pulling

    @property
    def completed(self) -> int:
        """Snapshots that this node has taken over."""
        return self._driver.state.completed

    @property
    def due(self) -> bool:
        """Whether a snapshot is taken over, or may have to be."""
        return self.pending or bool(self._driver.state.late)

    @property
    def reason(self) -> str:
        """What is waited for, and how far it is."""
        return self._driver.state.reason

    def reads(self) -> str | None:
        """Why nothing is read or written here: documents may not be what the vector says. None while they are."""
        state = self._driver.state
        if state.pending:
            return f"{state.reason}: it serves nothing until then"
        if state.settings.shares_store:
            # Whoever installs a position waits longer than that. A node that was paused may not know of it.
            unsure_s = asyncio.get_running_loop().time() - state.looked_s
            if unsure_s > SURE_FOR * state.settings.lease_s:
                return (
                    f"this node of {state.settings.region} could not look at its database for {unsure_s:.1f} s: it "
                    "serves nothing until then"
                )
        return None

    def _changed(self, before: InstallState, after: InstallState) -> None:
        if after.pending and not before.pending:
            self._closed()
