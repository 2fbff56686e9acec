"""Records histories of one deployment, one after the other, and has each checked."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from random import Random
from typing import Any

from atoll.client.aiohttp_transport import AiohttpTransport
from atoll.client.options import ClientOptions
from atoll.histories.history import Event, Recorder, Verdict, encode
from atoll.histories.linearizability import check_registers
from atoll.histories.serializability import check_transactions

from ..chaos.deployment import Deployment
from ..chaos.history import History
from ..cluster import REGIONS
from . import clients, transactions
from .clients import Work
from .faults import FAULTS, Faults, all_vote

_CLIENTS = 6
"""In each region; half as many of transactions, which wait for each other."""
_SETTLED_S = 60.0
_LAST_READS_S = 30.0


@dataclass(frozen=True, slots=True)
class Options:
    histories: int
    operations: int
    """That clients begin in each history; at its end, each region reads every document once more."""
    seed: int
    folder: Path
    """Empty; histories, logs and data stay there."""
    quiet_s: float = 1.0
    """The mean time between two faults."""
    kinds: tuple[str, ...] = ()
    """The only faults; all when empty."""
    local_reads: bool = False
    """Read each region's own copy, and call that linearizable: the checker has to find it."""
    amid_faults: bool = False
    """Clients begin with the first fault. They are fast: a short history would be over before."""
    transactions: bool | None = None
    """Whether histories are of transactions over lists, or of single documents; None for one in ten of them."""


@dataclass(slots=True)
class Recorded:
    """A history and what is wrong with it."""

    number: int
    file: Path
    operations: int
    outcomes: Counter[str]
    faults: Counter[str]
    seconds: float
    verdict: Verdict
    wrong: list[str] = field(default_factory=list)
    odd: Counter[str] = field(default_factory=Counter)
    """Answers that nobody should get, and that prove nothing."""

    @property
    def ok(self) -> bool:
        return self.verdict == "valid" and not self.wrong


async def record(options: Options, numbers: Iterator[int] | None = None) -> AsyncIterator[Recorded]:
    """The histories of these numbers, or all. Raises AssertionError when regions cannot be started."""
    numbers = iter(range(1, options.histories + 1)) if numbers is None else numbers
    deployment = Deployment(options.folder, Random(f"{options.seed} wires"), mounts=False)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(deployment.stop)
        await deployment.start()
        transport = AiohttpTransport(deployment.urls, ClientOptions())
        stack.push_async_callback(transport.close)
        await all_vote(deployment)
        for number in numbers:
            yield await _Recording(deployment, transport, options, number).made()


class _Recording:
    def __init__(
        self, deployment: Deployment, transport: AiohttpTransport, options: Options, number: int
    ) -> None:
        self._deployment = deployment
        self._options = options
        self._number = number
        chosen = options.transactions
        self._transactions = number % 10 == 0 if chosen is None else chosen
        self._random = Random(f"{options.seed} history {number}")
        self._recorder = Recorder(time.monotonic_ns)
        many = self._random.choice((12, 30, 60) if self._transactions else (4, 12, 40))
        keys = [f"{options.seed}-{number}-{key}" for key in range(many)]
        query = "consistency=eventual" if options.local_reads else ""
        self._work = Work(transport, keys, options.operations, query)
        self._noted = History()

    async def made(self) -> Recorded:
        began = time.monotonic()
        kinds = {kind: FAULTS[kind] for kind in self._options.kinds or FAULTS}
        faults = Faults(self._deployment, self._noted, Random(self._random.random()), kinds)
        attack = asyncio.create_task(faults.run(inf, quiet_s=self._options.quiet_s))
        each = _CLIENTS // 2 if self._transactions else _CLIENTS
        callers = [self._client(region) for region in REGIONS for _ in range(each)]
        try:
            if self._options.amid_faults:
                await faults.struck.wait()
            await asyncio.gather(*(caller.run() for caller in callers))
        finally:
            faults.end()
            await attack
        wrong = await self._healed()
        events = self._recorder.events()
        file = self._options.folder / f"history-{self._number:04}.jsonl"
        file.write_bytes(b"".join(encode(events)))
        check = check_transactions if self._transactions else check_registers
        found = await asyncio.to_thread(check, events)
        if found.verdict != "valid":
            wrong.append(str(found))
        return Recorded(
            self._number,
            file,
            _operations(events),
            self._work.outcomes,
            Counter(fault.kind for fault in self._noted.faults),
            time.monotonic() - began,
            found.verdict,
            wrong + self._noted.violations,
            self._work.odd,
        )

    def _client(self, region: str) -> clients.Client | transactions.Client:
        kind = transactions.Client if self._transactions else clients.Client
        return kind(region, self._recorder.client(), self._work, Random(self._random.random()))

    async def _healed(self) -> list[str]:
        """Mend everything. Then every region must serve, vote, and hold the same."""
        try:
            await self._deployment.heal()
            await all_vote(self._deployment)
            async with asyncio.timeout(_LAST_READS_S):
                await asyncio.gather(*(self._last_reads(self._client(region)) for region in REGIONS))
        except AssertionError as error:
            return [str(error)]
        except TimeoutError:
            return [f"not all documents could be read within {_LAST_READS_S} s after everything was mended"]
        if await self._deployment.settled(_SETTLED_S) is None:
            return [f"the regions are not at one position within {_SETTLED_S} s"]
        digests = [await self._digest(region) for region in REGIONS]
        return [] if digests == digests[:1] * 3 else [f"the regions differ: {digests}"]

    async def _last_reads(self, client: clients.Client | transactions.Client) -> None:
        if isinstance(client, transactions.Client):
            while not await client.read(self._work.keys):  # noqa: ASYNC110 - only the answer tells
                await asyncio.sleep(0.1)
            return
        for key in self._work.keys:
            while not await client.read(key):  # noqa: ASYNC110 - only the answer tells
                await asyncio.sleep(0.1)

    async def _digest(self, region: str) -> Any:
        collection = transactions.COLLECTION if self._transactions else "account"
        return (await self._deployment.get(region, "/admin/digest"))["collections"][collection]


def _operations(events: list[Event]) -> int:
    return sum(event.type == "invoke" for event in events)
