"""Redeclaration at one node, as `rollout.redeclare` decides on it."""

from __future__ import annotations

from collections.abc import Mapping

from atoll.protocol import port
from atoll.region.driver import Driver, Performer
from atoll.rollout import redeclare
from atoll.rollout.redeclare import MarkMixed, RedeclareState


class Redeclaration(Driver[RedeclareState, port.Outcome]):
    """Brings what a region has stored under the declarations that it runs with. `run` it."""

    def __init__(
        self, declared: Mapping[str, str], performer: Performer, *, nonce: str, retry_s: float
    ) -> None:
        self._declared = declared
        performer.group_commit.accompany(MarkMixed(declared))
        super().__init__(RedeclareState(declared, nonce, retry_s), redeclare.step, performer)

    def due(self, stored: Mapping[str, str]) -> dict[str, str]:
        """collection → fingerprint of those that are not yet as declared, by the `schemas` of the store."""
        return redeclare.due(self._declared, stored)

    async def run(self) -> None:
        """For ever: another node may write by other declarations as long as a rollout lasts."""
        self.post(port.Woken())
        await super().run()
