"""Snapshot install at one node, as `recovery.snapshot_install` decides on it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from atoll.causality.origin import incarnation_of
from atoll.commit.snapshot_page import RECORD
from atoll.recovery.snapshot_install import (
    SURE_FOR,
    Event,
    Opened,
    Replaced,
    TooLate,
    step,
)
from atoll.recovery.snapshot_record import LetGo, Record
from atoll.recovery.snapshot_state import InstallState, Settings
from atoll.region.driver import Performer
from atoll.region.options import RegionOptions
from atoll.region.recovery import Recovery
from atoll.region.snapshot_pages import BORN
from atoll.replication.messages import StreamRequest
from atoll.store.port import Store


class SnapshotInstall(Recovery[InstallState, Event]):
    """Of one node. `open` it with the store, then `run` it."""

    def __init__(
        self,
        performer: Performer,
        closing: Callable[[], None],
        store: Store,
        now_ms: Callable[[], int],
        options: RegionOptions,
    ) -> None:
        self._store = store
        self._now_ms = now_ms
        self._incarnations: dict[str, int] = {}
        """peer → the latest one under which it asked."""
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
        super().__init__(InstallState(settings), step, performer, closing)
        self.page = performer.pages.page

    async def open(self) -> None:
        """Look whether an earlier run has not finished. Raises what the store raises."""
        if not await self._store.counter(BORN):
            await self._store.raise_counter(BORN, self._now_ms())
        self.post(Opened(Record.of(await self._store.state(*RECORD))))

    def too_late(self, peer: str, past: Mapping[str, int]) -> None:
        """A peer's journal no longer holds what comes next here."""
        self.post(TooLate(peer, past))

    async def let_go(self, request: StreamRequest) -> None:
        """Before a peer hears what is here: it counts as lost what nobody announces. Raises what the store raises."""
        peer, incarnation = request.region, incarnation_of(request.numbers)
        anew = request.anew or incarnation > self._incarnations.get(peer, -1)
        if Record.of(await self._store.state(*RECORD)).phase == "pulling":
            await self._node.group_commit.commit(LetGo(peer, request.vector, anew))
        self._incarnations[peer] = max(incarnation, self._incarnations.get(peer, -1))

    def replaced(self) -> None:
        """The database is another one: what is known of a snapshot may not be in it."""
        self.post(Replaced())

    def reads(self) -> str | None:
        """Why nothing is read or written here: documents may not be what the vector says. None while they are."""
        state = self.state
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
