"""Changes of registers on their way to the region that proposes them.

Those of one register that are sent in one turn of the event loop share a message. They arrive together, so they become
one proposal, and are answered together.
"""

from __future__ import annotations

import asyncio

from atoll.commit.identity import Address
from atoll.documents.mutation import weight_of
from atoll.errors import AtollError, Indefinite
from atoll.region.site import Site
from atoll.region.tasks import Tasks
from atoll.replication.messages import WriteCall, WriteReply, WritesCall, WritesReply

_AT_ONCE = 64
_AT_ONCE_BYTES = 256 << 10
"""Of so many changes, and about so many bytes, a message consists at most."""


class _Forwarded:
    """A change that waits for its answer."""

    __slots__ = ("answered", "call")

    def __init__(self, call: WriteCall) -> None:
        self.call = call
        self.answered: asyncio.Future[WriteReply] = asyncio.get_running_loop().create_future()

    def answer(self, found: WriteReply | AtollError) -> None:
        if self.answered.done():
            return
        if isinstance(found, AtollError):
            self.answered.set_exception(found)
            self.answered.exception()  # whoever waited may have given up
        else:
            self.answered.set_result(found)


class Forwarding:
    """Of one node. `close` it."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._waiting: dict[tuple[str, Address], list[_Forwarded]] = {}
        self._tasks = Tasks()

    def send(self, region: str, address: Address, call: WriteCall) -> asyncio.Future[WriteReply]:
        """The answer to be; it raises what the region raises, RegionUnreachable, and Indefinite."""
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._leave)
        forwarded = _Forwarded(call)
        self._waiting.setdefault((region, address), []).append(forwarded)
        return forwarded.answered

    async def close(self) -> None:
        await self._tasks.close()

    def _leave(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for (region, _), forwarded in waiting.items():
            for message in _messages(forwarded):
                self._tasks.spawn(self._exchange(region, message), f"forwards to {region}")

    async def _exchange(self, region: str, forwarded: list[_Forwarded]) -> None:
        answers: list[WriteReply | AtollError] = []
        failed: AtollError = Indefinite("this region stopped while it forwarded the change")
        try:
            if len(forwarded) == 1:
                answers.append(await self._site.ask(region, forwarded[0].call, WriteReply))
            else:
                call = WritesCall(tuple(each.call for each in forwarded))
                reply = await self._site.ask(region, call, WritesReply)
                for taken, failure in reply.replies:
                    if taken is not None:
                        answers.append(taken)
                    elif failure is not None:
                        answers.append(failure.error())
        except AtollError as error:
            failed = error
        finally:
            for number, each in enumerate(forwarded):
                each.answer(answers[number] if number < len(answers) else failed)


def _messages(forwarded: list[_Forwarded]) -> list[list[_Forwarded]]:
    found: list[list[_Forwarded]] = []
    size = 0
    for each in forwarded:
        size += sum(map(weight_of, each.call.write.mutations))
        if not found or len(found[-1]) == _AT_ONCE or size > _AT_ONCE_BYTES:
            found.append([])
            size = sum(map(weight_of, each.call.write.mutations))
        found[-1].append(each)
    return found
