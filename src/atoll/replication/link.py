"""The receiving side: pull one peer's journal, for ever, whatever happens to the wire or the peer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from random import Random
from typing import Protocol

from atoll.causality import vector as vectors
from atoll.causality.origin import region_of
from atoll.documents.entry import EncodedEntry, lacks
from atoll.errors import AtollError, RegionLeft, RegionUnreachable, ReplicationError
from atoll.membership.members import Members
from atoll.replication.beside import beside_loop
from atoll.replication.messages import Peers, StreamRequest
from atoll.replication.signal import Signal
from atoll.replication.wire import FrameReader, Heartbeat, JournalBegins, Large, Message
from atoll.schema.bounds import INBOX_BYTES


@dataclass(frozen=True, slots=True)
class LinkOptions:
    first_retry_s: float = 0.05
    """Wait this long before the first reconnect; doubled each time, with jitter."""
    longest_retry_s: float = 1.0
    silence_s: float = 3.0
    """A link on which not even a heartbeat came for so long is broken and opened anew."""
    surplus_s: float = 1.0
    """So long a link goes on with origins that others pull again: what comes twice is dropped on arrival."""
    inbox_bytes: int = INBOX_BYTES
    """The link stops reading while more than this waits to be applied."""


@dataclass(slots=True)
class LinkStatus:
    """What `atoll status` and the metrics show of one link."""

    peer: str
    connected: bool = False
    since_ms: int = 0
    """When the present state began (unix milliseconds)."""
    heard_ms: int = 0
    """When the last frame came."""
    received_entries: int = 0
    received_bytes: int = 0
    reconnects: int = 0
    refused: int = 0
    """Frames and entries that were refused as corrupt or hostile."""
    last_error: str | None = None
    relays: tuple[str, ...] = ()
    """Other origins that are pulled through this peer."""
    advertised: dict[str, int] = field(default_factory=dict)
    """What the peer last said that it has."""
    left: str | None = None
    """Why the peer takes this region for one that has left, as it last answered."""
    whole: bool = False
    """Whether its documents show that, as it last said."""


class Linked(Protocol):
    """A link, as far as others ask about it."""

    @property
    def status(self) -> LinkStatus:
        """What it knows of its peer."""


class Receiver(Protocol):
    """The region, as its links see it."""

    @property
    def name(self) -> str:
        """Of the region."""

    @property
    def origin(self) -> str:
        """Under which it numbers its entries."""

    @property
    def members(self) -> Members:
        """Which regions there are."""

    @property
    def vector(self) -> dict[str, int]:
        """What it has."""

    def origins(self, peer: str) -> tuple[str, ...]:
        """Whose entries to pull through this peer at present."""

    def deliver(self, encoded: list[EncodedEntry], link: str) -> None:
        """Take entries, in the order in which they came."""

    async def backpressure(self, link: str, bytes_waiting: int) -> None:
        """Wait until less than so much of what this link brought waits."""

    def heard(self, peer: str, heartbeat: Heartbeat) -> None:
        """A peer said what it has."""

    def too_late(self, peer: str, past: dict[str, int]) -> None:
        """A peer's journal no longer holds what comes next here: of each origin nothing up to this seq."""


class Link:
    """Pulls from one peer. `run` never returns by itself."""

    def __init__(
        self,
        peer: str,
        receiver: Receiver,
        peers: Peers,
        key: bytes,
        *,
        now_ms: Callable[[], int],
        random: Random,
        options: LinkOptions = LinkOptions(),
    ) -> None:
        self.status = LinkStatus(peer)
        self._peer = peer
        self._receiver = receiver
        self._peers = peers
        self._key = key
        self._now_ms = now_ms
        self._random = random
        self._options = options
        self._again = asyncio.Event()
        self._reachable = asyncio.Event()
        self._requested: tuple[str, ...] = ()
        self._surplus: asyncio.TimerHandle | None = None
        self._advertised: dict[str, int] = {}
        self._over = Signal()
        self._pulling = False
        self._renewals = 0
        self._renewed = 0

    def review(self) -> None:
        """Called when other links went up or down: reopen if other origins are to be pulled here now."""
        # Compared with what was asked for last, not with what has come: else links that open at the same time,
        # far away, start each other over and over.
        if not self.status.connected:
            return
        wanted = self._receiver.origins(self._peer)
        if not wanted or not {*wanted} <= {*self._requested}:
            self._again.set()
        elif len(wanted) < len(self._requested) and self._surplus is None:
            # Where many links come up together each would start all others over, and nothing would arrive meanwhile.
            loop = asyncio.get_running_loop()
            self._surplus = loop.call_later(self._options.surplus_s, self._drop_surplus)

    def _drop_surplus(self) -> None:
        self._surplus = None
        if self.status.connected and self._receiver.origins(self._peer) != self._requested:
            self._again.set()

    def reopen(self) -> None:
        """What is still on its way was sent before the peer lost its disk: ask anew."""
        self._again.set()

    def refuse(self, error: ReplicationError) -> None:
        """The peer has asked for something that it is refused: shown and counted as what its stream brings is."""
        self.status.refused += 1
        self.status.last_error = error.message

    def reachable(self) -> None:
        """The peer has just asked this region for something: a link that waits to try again need not wait."""
        self._reachable.set()

    async def reopened(self) -> None:
        """Wait until nothing will come any more that was on its way before the last `reopen`."""
        while self._again.is_set() and self._pulling:
            await self._over.wait()

    def renew(self) -> None:
        """This region's database has lost commits: have the peer drop what it got of them and has not stored."""
        self._renewals += 1
        self._again.set()

    @property
    def renewing(self) -> bool:
        """Whether the peer has not been heard since."""
        return self._renewed < self._renewals

    async def run(self, changed: Callable[[], None]) -> None:
        """`changed` is called whenever the link goes up or down."""
        delay = self._options.first_retry_s
        hurried = False
        while True:
            self._again.clear()
            reopen = asyncio.ensure_future(self._again.wait())
            pull = asyncio.ensure_future(self._pull(changed))
            self._pulling = True
            try:
                await asyncio.wait({reopen, pull}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                reopen.cancel()
                pull.cancel()
                outcome = (await asyncio.gather(pull, reopen, return_exceptions=True))[0]
                self._pulling = False
                self._over.notify()
            was_connected = self.status.connected
            if not (self._again.is_set() and isinstance(outcome, asyncio.CancelledError)):
                self._down(outcome if isinstance(outcome, Exception) else None)
                if was_connected:
                    if not isinstance(outcome, ReplicationError):
                        delay = self._options.first_retry_s  # it worked; one that sends rubbish has to wait
                        hurried = False
                    changed()
                self.status.reconnects += 1
                pause_s = delay * self._random.uniform(0.5, 1.0)
                delay = min(delay * 2, self._options.longest_retry_s)
                # Never twice in a row: else two regions that hear each other badly would ask without a pause.
                hurried = await self._pause(pause_s, may_hurry=not hurried)

    async def _pause(self, pause_s: float, *, may_hurry: bool) -> bool:
        """Whether the peer was heard of before the time was over."""
        self._reachable.clear()
        try:
            async with asyncio.timeout(pause_s):
                return await self._reachable.wait() if may_hurry else await asyncio.Future[bool]()
        except TimeoutError:
            return False

    async def _pull(self, changed: Callable[[], None]) -> None:
        origins = self._requested = self._receiver.origins(self._peer)
        self._advertised = {}  # the peer may have lost its disk
        reader = FrameReader(self._key)
        renewal, renewing = self._renewals, self.renewing
        request = StreamRequest(
            self._receiver.name, dict(self._receiver.vector), origins, renewing, self._receiver.origin
        )
        async with aclosing(self._peers.stream(self._peer, request)) as stream:
            while True:
                async with asyncio.timeout(self._options.silence_s):
                    data = await anext(stream, b"")
                if not data:
                    raise RegionUnreachable(f"{self._peer} ended the stream", region=self._peer)
                for found in reader.feed(data):
                    message = await beside_loop(found.read) if isinstance(found, Large) else found
                    if not self.status.connected or self.status.relays != origins[1:]:
                        self._up(origins)
                        changed()
                    self._renewed = max(self._renewed, renewal)
                    self._take(message)
                self.status.received_bytes += len(data)
                await self._receiver.backpressure(self._peer, self._options.inbox_bytes)

    def _take(self, message: Message) -> None:
        self.status.heard_ms = self._now_ms()
        if isinstance(message, Heartbeat):
            if message.region != self._peer:
                raise ReplicationError(
                    f"the region at {self._peer}'s address calls itself {message.region!r}"
                )
            self._advertised = vectors.merge(self._advertised, message.vector)
            self.status.advertised, self.status.whole = self._advertised, message.whole
            self._receiver.heard(self._peer, message)
            return
        if isinstance(message, JournalBegins):
            self._receiver.too_late(self._peer, message.past)
            return
        for encoded in message:
            entry = encoded.entry
            if region_of(entry.origin) not in self._receiver.members.origins:
                raise ReplicationError(
                    f"{self._peer} sent an entry of {entry.origin!r}, which is not a region of this deployment"
                )
            if encoded.withheld and lacks(encoded, self._receiver.name):
                raise ReplicationError(
                    f"{self._peer} sent entry {entry.seq} of {entry.origin} without a section for {self._receiver.name}"
                )
        self.status.received_entries += len(message)
        self._receiver.deliver(message, self._peer)

    def _up(self, origins: tuple[str, ...]) -> None:
        self.status.connected = True
        self.status.since_ms = self._now_ms()
        self.status.relays = origins[1:]
        self.status.last_error = self.status.left = None

    def _down(self, error: Exception | None) -> None:
        if self.status.connected or self.status.since_ms == 0:
            self.status.since_ms = self._now_ms()
        self.status.connected = False
        self.status.relays = ()
        if isinstance(error, ReplicationError):
            self.status.refused += 1
        if isinstance(error, RegionLeft):
            self.status.left = error.message
        if error is None:
            return
        if isinstance(error, TimeoutError):
            self.status.last_error = f"nothing heard for {self._options.silence_s} s"
        else:
            self.status.last_error = error.message if isinstance(error, AtollError) else repr(error)
