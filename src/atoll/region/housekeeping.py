"""What is done now and then beside the writers, and how often: checkpoints, retention, new declarations."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Protocol

from atoll.errors import AtollError
from atoll.region.group_commit import GroupCommit
from atoll.region.options import RegionOptions
from atoll.region.redeclare import Redeclaration
from atoll.region.truncation import Truncation
from atoll.store.port import Audit, Maintenance, States

_LOOKED_AFTER_S = 10.0
"""How often a region looks whether its documents still are all as it declares them."""
_SHARE = 10
"""Of the time, one part at most goes into bringing documents under new declarations while others undo it."""
_FORGETS_EVERY = 60
"""Rounds."""


class Stored(Audit, Maintenance, States, Protocol):
    """The ports of the store that are needed here."""


class Housekeeping:
    """Of one node. Each of its works goes on for ever; a failing disk is the commit path's to report."""

    def __init__(
        self,
        store: Stored,
        group_commit: GroupCommit,
        *,
        redeclaration: Redeclaration,
        truncation: Truncation,
        now_ms: Callable[[], int],
        options: RegionOptions,
    ) -> None:
        self._store = store
        self._group_commit = group_commit
        self._redeclaration = redeclaration
        self._truncation = truncation
        self._now_ms = now_ms
        self._options = options

    async def keep_store(self) -> None:
        """Checkpoints, retention, and a look whether a store that refused can be written again."""
        rounds = 0
        while True:
            await asyncio.sleep(self._options.housekeeping_s)
            await self._store.checkpoint()
            rounds += 1
            if self._group_commit.store_error is not None:
                await self._probe_store()
            if rounds % _FORGETS_EVERY == 0 and self._group_commit.store_error is None:
                await self._forget()

    async def cut_journal(self) -> None:
        while True:
            if self._group_commit.store_error is None:
                with contextlib.suppress(AtollError):
                    await self._truncation.round()
            await asyncio.sleep(self._options.journal_round_s)

    async def follow_declarations(self) -> None:
        """Another node may write by other declarations as long as a rollout lasts."""
        loop = asyncio.get_running_loop()
        while True:
            began_s = loop.time()
            try:
                done = await self._redeclaration.run()
            except AtollError:
                await asyncio.sleep(self._options.housekeeping_s)  # a full disk may have room again
                continue
            pause_s = _LOOKED_AFTER_S if done else self._options.housekeeping_s
            await asyncio.sleep(max(pause_s, _SHARE * (loop.time() - began_s)))

    async def _probe_store(self) -> None:
        """Once nobody sends writes here any more, this is how the region learns that it can take them again."""
        with contextlib.suppress(AtollError):
            await self._store.raise_counter("probe_ms", self._now_ms())
            self._group_commit.store_error = None

    async def _forget(self) -> None:
        """In bounded pieces."""
        now_ms = self._now_ms()
        with contextlib.suppress(AtollError):
            while await self._store.forget(  # noqa: ASYNC110 - it gives way between two pieces of work
                remembered_before_ms=now_ms - int(self._options.idempotency_s * 1000),
                audit_before_ms=now_ms - int(self._options.audit_s * 1000),
                audit_keep=self._options.audit_most,
            ):
                await asyncio.sleep(0)
