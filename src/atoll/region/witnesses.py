"""What regions with documents do for witnesses, which vote and hold none: ask whether they can be reached."""

from __future__ import annotations

import asyncio
from typing import Final

from atoll.errors import AtollError
from atoll.membership.members import Members
from atoll.region.site import Site
from atoll.region.voting import Voting
from atoll.replication.messages import PingCall

_EVERY_S: Final = 1.0
_SOON_S: Final = 0.2


class Witnesses:
    """Of one node. `run` it. There are no links to witnesses, so this says whether a majority can be asked."""

    def __init__(self, site: Site, members: Members, voting: Voting) -> None:
        self._site = site
        self._members = members
        self._voting = voting

    async def run(self) -> None:
        """For ever."""
        while True:
            witnesses = self._members.witnesses
            answers = await asyncio.gather(*map(self._answers, witnesses))
            reached = frozenset(
                region for region, answered in zip(witnesses, answers, strict=True) if answered
            )
            self._voting.reached = reached
            await asyncio.sleep(_EVERY_S if len(reached) == len(witnesses) else _SOON_S)

    async def _answers(self, region: str) -> bool:
        try:
            await self._site.peers.call(region, PingCall(), timeout_s=_EVERY_S)
        except AtollError:
            return False
        return True
