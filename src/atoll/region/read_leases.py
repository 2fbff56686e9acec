"""Leases: a region reads a strong document at home, without asking anybody.

Whoever proposes a register's changes, and reads it, asks for a lease with them (`read_lease_s` of a collection). A
majority that has granted it promises nothing to others meanwhile. So nothing else can be decided. What this node has
decided last is what every read must show. In a region of several nodes nobody asks for one: they would wait for each
other.

No clock is compared with another one. The proposer counts from before its proposal leaves, and ends earlier by
`SLOWEST`. An acceptor counts from when it sees the proposal. A node that was just started sees it when it is asked for
a promise first. One that lost its disk votes only after the leases that it finds at others. So a lease is safe while
clocks run equally fast, but for `SLOWEST`, however far apart they are.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from math import inf
from typing import Final, NamedTuple

from atoll.causality.types import Ballot
from atoll.commit.identity import Address
from atoll.consensus.acceptor import Acceptor
from atoll.consensus.decided import Decided
from atoll.documents.rules import Rules

SLOWEST: Final = 1.25
"""Of two regions, the faster one's clock runs at most so much faster."""
_KEPT: Final = 10_000
_LATELY_S: Final = 10.0
"""Whoever has read a document here within this time will do it again."""


class SeenLeases:
    """Since when a node's acceptors count the leases that they have granted."""

    def __init__(self) -> None:
        self.now_s = 0.0
        """On the event loop's clock."""
        self._seen: OrderedDict[str, tuple[Ballot, float]] = OrderedDict()
        """Register → what was promised with the lease, and when that was seen first."""

    def lasts(self, register: str, state: Acceptor) -> bool:
        """Whether the state's lease lasts yet; one that was not seen before begins now."""
        if not state.lease_ms:
            return False
        ballot, since_s = self._seen.get(register, (None, 0.0))
        if ballot != state.promised:
            since_s = self.now_s
            self._seen[register] = (state.promised, since_s)
            self._seen.move_to_end(register)
            if len(self._seen) > _KEPT:
                self._seen.popitem(last=False)
        return self.now_s < since_s + state.lease_ms / 1000


class _Lease(NamedTuple):
    revision: int
    """Of the document that reads must show, or a later one."""
    lease_ms: int
    renew_s: float
    until_s: float


class ReadLeases:
    """What a node may show without asking, as long as it lasts."""

    def __init__(self, rules: Mapping[str, Rules]) -> None:
        """Of collections that are not in `rules` no leases are asked for."""
        self._read_s: OrderedDict[Address, float] = OrderedDict()
        """When documents of such collections were read here last."""
        self._lease_s = {name: each.schema.policy.read_lease_s or 0.0 for name, each in rules.items()}
        self._leases: OrderedDict[Address, _Lease] = OrderedDict()

    def read(self, address: Address, now_s: float) -> bool:
        """A document is read here; whether leases are asked for in its collection."""
        if not self._lease_s.get(address[0]):
            return False
        self._read_s[address] = now_s
        self._read_s.move_to_end(address)
        if len(self._read_s) > _KEPT:
            self._read_s.popitem(last=False)
        return True

    def lease_ms(self, address: Address, after: Decided, now_s: float) -> int:
        """What to ask for with a proposal. 0 for none: where nobody reads, it would only keep others waiting.

        Nor does a transaction get any: who settles it next may be another region.
        """
        lately = now_s - self._read_s.get(address, -inf) < _LATELY_S
        return round(self._lease_s.get(address[0], 0.0) * 1000) if lately and after.intent is None else 0

    def proposed(self, address: Address, after: Decided, lease_ms: int) -> None:
        """It may be decided from now on, and seen elsewhere: nothing else is shown without asking.

        Acceptors keep the lease of the latest proposal alone, so a shorter one ends those before it.
        """
        lease = self._leases.get(address)
        if lease is None:
            return
        if after.revision != lease.revision or after.intent is not None or lease_ms < lease.lease_ms:
            del self._leases[address]

    def decided(self, address: Address, after: Decided, lease_ms: int, since_s: float) -> None:
        """A majority has accepted it, and the lease with it; `since_s`: before any of them was asked."""
        if not lease_ms:
            return
        lease_s = lease_ms / 1000 / SLOWEST
        self._leases[address] = _Lease(after.revision, lease_ms, since_s + lease_s / 2, since_s + lease_s)
        self._leases.move_to_end(address)
        if len(self._leases) > _KEPT:
            self._leases.popitem(last=False)

    def revision(self, address: Address, now_s: float) -> int | None:
        """The one that has to be shown, or a later one; None where a majority must be asked."""
        lease = self._leases.get(address)
        return lease.revision if lease is not None and now_s < lease.until_s else None

    def fades(self, address: Address, now_s: float) -> bool:
        """Whether it had better be renewed. It is so once."""
        lease = self._leases.get(address)
        if lease is None or now_s < lease.renew_s:
            return False
        self._leases[address] = lease._replace(renew_s=lease.until_s)
        return True
