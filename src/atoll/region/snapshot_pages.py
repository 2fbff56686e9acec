"""Pages of snapshots: read for peers, asked of peers, kept aside in the store, and opened again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from atoll.causality.origin import latest_of
from atoll.causality.types import Dot
from atoll.commit.snapshot_page import KEPT_ASIDE, RECORD, SnapshotPage
from atoll.documents.rules import Rules
from atoll.errors import AtollError, StoreCorrupt, Unavailable
from atoll.protocol import port
from atoll.recovery.restore import RESTORED
from atoll.recovery.snapshot_record import KeptPage, Record, key_of
from atoll.region.divergence import entry_digest
from atoll.replication import snapshot
from atoll.replication.beside import beside_loop
from atoll.replication.messages import Peers, SnapshotCall, SnapshotPlace, SnapshotReply
from atoll.replication.snapshot import Content
from atoll.rollout.redeclare import UNPARKED
from atoll.store.port import Row, Store

BORN = "born_ms"
"""When this store was first opened: it tells a peer's new disk from its old one."""
_MERGED_AT_ONCE = 200

_decode = msgspec.msgpack.Decoder(KeptPage).decode


class SnapshotPages:
    """Of one node."""

    def __init__(
        self,
        region: str,
        rules: Mapping[str, Rules],
        store: Store,
        peers: Peers,
        *,
        fingerprints: Mapping[str, str],
        most_rows: int,
    ) -> None:
        """`fingerprints`: collection → that of its declaration at this node."""
        self._region = region
        self._rules = rules
        self._store = store
        self._peers = peers
        self.fingerprints = fingerprints
        self._most_rows = most_rows

    @property
    def declared(self) -> Mapping[str, Mapping[str, str]]:
        """collection → mergeable field → its kind."""
        return snapshot.declared(self._rules)

    async def page(self, call: SnapshotCall) -> SnapshotReply:
        """For a peer. Raises Unavailable while documents here are not what the vector says, and what the store
        raises.
        """
        stored = await self._store.schemas()
        if any(stored.get(name) != wanted for name, wanted in self.fingerprints.items()):
            raise Unavailable(
                f"{self._region} is installing new declarations: ask again", region=self._region
            )
        others = sorted(stored.keys() - self._rules.keys())
        if others:
            await self._store.open_collections(others)
        unparked = await self._store.state(*UNPARKED)
        counter = self._store.counter
        # The second number differs, too, once changes went from the parked ones into documents. Whoever reads documents
        # before and parked changes after it finds them in neither. Both of its parts only rise.
        incarnation = (await counter(BORN), await counter(RESTORED) + int(unparked or 0))
        page = await snapshot.read_page(
            self._store,
            self._rules,
            call,
            incarnation,
            self._check_merged,
            others=others,
            most_rows=self._most_rows,
        )
        if await self._store.state(*UNPARKED) != unparked:
            raise Unavailable(f"{self._region} has merged parked changes: ask again", region=self._region)
        own = latest_of(page.after, self._region)
        last = await entry_digest(self._store, own, page.after.get(own, 0))
        return msgspec.structs.replace(page, last=last)

    async def _check_merged(self) -> None:
        """Asked after the vector was read: whoever installs one says so in the same commit."""
        if Record.of(await self._store.state(*RECORD)).incomplete:
            raise Unavailable(
                f"{self._region} is installing a snapshot itself: ask again", region=self._region
            )

    async def outcome(self, effect: port.Snapshots) -> port.Outcome:
        """Perform it. Raises what the peer and the store raise, and ReplicationErrors for what is refused."""
        match effect:
            case port.AskPage(peer, place, timeout_s):
                page = await self._ask(peer, place, timeout_s)
                digests = await beside_loop(self._checked, page)
                return port.PageReceived(peer, place, page, digests)
            case port.ScanKept(after):
                return await self._scanned(after)
            case port.OpenKept(number):
                row = await self._store.get(KEPT_ASIDE, key_of(number))
                if row is None or not row.meta:
                    raise StoreCorrupt(f"page {number} of a snapshot is no longer in the store")
                page = _kept(row).page
                content, pieces = await beside_loop(_opened, page)
                if content.documents:
                    await self._store.open_collections([content.collection])
                return port.KeptOpened(number, pieces)

    def _checked(self, page: SnapshotReply) -> dict[Dot, bytes]:
        """The digests of its entries. Raises CorruptEntry, HostileEntry."""
        content = snapshot.open_page(page)
        snapshot.check_content(page, content, self._rules, self._region)
        return snapshot.digests_of(content)

    async def _ask(self, peer: str, place: SnapshotPlace, timeout_s: float) -> SnapshotReply:
        page = await self._peers.call(peer, SnapshotCall(place, self._region), timeout_s=timeout_s)
        if not isinstance(page, SnapshotReply):
            raise AtollError(f"{peer} answered a request for a snapshot with {type(page).__name__}")
        return page

    async def _scanned(self, after: str) -> port.KeptScanned:
        rows = await self._store.scan_all(KEPT_ASIDE, after=after or None, limit=1)
        if not rows:
            return port.KeptScanned("")
        ((key, row),) = rows
        if not row.meta:
            return port.KeptScanned(key)
        kept = _kept(row)
        return port.KeptScanned(key, kept.round, kept.peer, kept.page)


def _opened(page: SnapshotReply) -> tuple[Content, tuple[SnapshotPage, ...]]:
    """Raises CorruptEntry."""
    content = snapshot.open_page(page)
    return content, tuple(_pieces(content, page.clock))


def _pieces(content: Content, stamp: int) -> Iterator[SnapshotPage]:
    for at in range(0, len(content.documents), _MERGED_AT_ONCE):
        rows = content.documents[at : at + _MERGED_AT_ONCE]
        documents = tuple((content.collection, key, Row(value, meta)) for key, value, meta in rows)
        yield SnapshotPage(documents=documents, stamp=stamp)
    resolved = snapshot.resolved_of(content)
    for at in range(0, len(resolved), _MERGED_AT_ONCE):
        yield SnapshotPage(resolved=resolved[at : at + _MERGED_AT_ONCE])
    for at in range(0, len(content.parked), _MERGED_AT_ONCE):
        yield SnapshotPage(parked=tuple(content.parked[at : at + _MERGED_AT_ONCE]))
    entries = snapshot.entries_of(content)
    for at in range(0, len(entries), _MERGED_AT_ONCE):
        yield SnapshotPage(entries=entries[at : at + _MERGED_AT_ONCE])


def _kept(row: Row) -> KeptPage:
    try:
        return _decode(row.meta)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StoreCorrupt(f"a stored page of a snapshot cannot be read: {error}") from None
