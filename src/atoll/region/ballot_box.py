"""Asks acceptors: requests for many registers share a message, and in each region a transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Literal

from atoll.consensus.acceptor import Accept, Request, Vote
from atoll.consensus.acceptor_set import Counted
from atoll.consensus.round import Round, heard
from atoll.errors import AtollError
from atoll.region.site import Site
from atoll.region.tasks import Tasks
from atoll.region.voting import Voting
from atoll.replication.messages import VoteCall, VoteReply

_AT_ONCE_BYTES = 1 << 20
_MOST_TURNS = 4
"""Of the event loop, that a request waits at most while each brings others."""
Until = Literal["won", "decided", "all"]


class _Asked:
    """A request to one region that waits for its answer."""

    __slots__ = ("answered", "counted", "request")

    def __init__(self, request: Request, counted: Counted, answered: Callable[[Vote | None], None]) -> None:
        self.request = request
        self.counted = counted
        self.answered = answered

    @property
    def size_bytes(self) -> int:
        return len(self.request.value) if isinstance(self.request, Accept) else 0


class BallotBox:
    """Of one node. What is asked in one turn of the event loop leaves together, and waits while turns bring more."""

    def __init__(self, site: Site, voting: Voting) -> None:
        self._site = site
        self._voting = voting
        self._waiting: dict[str, list[_Asked]] = {}
        self._brought = 0
        """How many requests came since the last turn of the event loop."""
        self._tasks = Tasks()

    async def ask(self, request: Request, counted: Counted, *, until: Until = "won", but: str = "") -> Round:
        """The round once it is won or lost; until it is `decided` that what was accepted is; until `all` have answered.

        `but` is not asked: the round is also over once only its vote is missing.
        """
        voters = counted.voters
        state = Round(voters)
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def answered(region: str, vote: Vote | None) -> None:
            nonlocal state
            state = heard(state, region, vote)
            over = state.outcome != "open" or (state.short_of_one and bool(but))
            if until == "decided" and not state.complete:
                over = state.decided or state.outcome == "unreachable"
            if until == "all":
                over = state.answers == len(voters) - (but in voters)
            if over and not ended.done():
                ended.set_result(None)

        for region in (region for region in voters if region != but):
            self._put(region, _Asked(request, counted, lambda vote, region=region: answered(region, vote)))  # type: ignore[misc]
        if not (but and state.short_of_one):
            await ended
        return state

    async def close(self) -> None:
        await self._tasks.close()

    def _put(self, region: str, asked: _Asked) -> None:
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._send, _MOST_TURNS)
        self._brought += 1
        self._waiting.setdefault(region, []).append(asked)

    def _send(self, turns: int) -> None:
        brought, self._brought = self._brought, 0
        if brought and turns:
            asyncio.get_running_loop().call_soon(self._send, turns - 1)
            return
        waiting, self._waiting = self._waiting, {}
        for region, asked in waiting.items():
            for message in _messages(asked):
                self._tasks.spawn(self._exchange(region, message), f"asks {region}'s acceptors")

    async def _exchange(self, region: str, asked: list[_Asked]) -> None:
        call = VoteCall.of(asked[0].counted, *(each.request for each in asked))
        votes: tuple[Vote, ...] = ()
        try:
            if region == self._site.name:
                reply = await self._voting.vote(call)
            else:
                reply = await self._site.ask(region, call, VoteReply)
            self._voting.heard(reply.voters, reply.set)
            votes = reply.votes
        except AtollError:
            pass  # an acceptor that cannot answer is silent; whoever asks needs a majority only
        finally:
            for number, each in enumerate(asked):
                each.answered(votes[number] if number < len(votes) else None)


def _messages(asked: list[_Asked]) -> list[list[_Asked]]:
    """Of one size at most, each with requests that count the same acceptors."""
    found: list[list[_Asked]] = []
    size = 0
    for each in asked:
        size += each.size_bytes
        if not found or found[-1][0].counted != each.counted or size > _AT_ONCE_BYTES:
            found.append([])
            size = each.size_bytes
        found[-1].append(each)
    return found
