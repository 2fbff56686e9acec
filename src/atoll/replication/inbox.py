"""Entries that arrived and wait for what their writers had seen."""

from __future__ import annotations

from collections.abc import Container, Mapping

import msgspec

from atoll.causality.floor import origins_in, raised_by
from atoll.causality.origin import region_of
from atoll.causality.vector import descends
from atoll.documents.entry import EncodedEntry
from atoll.schema.bounds import COMMIT_BYTES


class _Waiting(msgspec.Struct, frozen=True, gc=False):
    encoded: EncodedEntry
    link: str


class Inbox:
    """Hands out entries in causal order, each origin's without a gap; holds at most one of each dot.

    It counts what waits by the link that brought it. One count for all would let entries that wait for
    others' past keep that very past outside.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, dict[int, _Waiting]] = {}
        self._bytes: dict[str, int] = {}

    def __len__(self) -> int:
        return sum(len(entries) for entries in self._waiting.values())

    def __bool__(self) -> bool:
        return bool(self._waiting)

    @property
    def size_bytes(self) -> int:
        return sum(self._bytes.values())

    def bytes_of(self, link: str) -> int:
        """How much that came by one link waits."""
        return self._bytes.get(link, 0)

    def add(self, encoded: EncodedEntry, link: str, vector: Mapping[str, int]) -> bool:
        """Keep an entry until its turn; False for one that is here already."""
        entry = encoded.entry
        if entry.seq <= vector.get(entry.origin, 0):
            return False
        waiting = self._waiting.setdefault(entry.origin, {})
        if entry.seq in waiting:
            return False
        waiting[entry.seq] = _Waiting(encoded, link)
        self._bytes[link] = self._bytes.get(link, 0) + len(encoded.frame)
        return True

    def ready(
        self,
        vector: Mapping[str, int],
        limit: int,
        without: Container[str] = (),
        *,
        limit_bytes: int = COMMIT_BYTES,
    ) -> list[EncodedEntry]:
        """Take up to `limit` entries that can be applied now, in this order, on top of `vector`.

        The entry that reaches `limit_bytes` is the last one. Entries of the origins `without` stay.
        """
        if not self._waiting:
            return []
        at = dict(vector)
        taken: list[EncodedEntry] = []
        progress = True
        while progress and len(taken) < limit and limit_bytes > 0:
            progress = False
            for origin in sorted(self._waiting):
                if origin in without:
                    continue
                waiting = self._waiting[origin]
                seq = at.get(origin, 0) + 1
                while len(taken) < limit and limit_bytes > 0:
                    found = waiting.get(seq)
                    if found is None:
                        break
                    context = found.encoded.entry.context
                    if not (descends(at, context) or _follows(context, at)):
                        break
                    del waiting[seq]
                    size_bytes = len(found.encoded.frame)
                    self._bytes[found.link] -= size_bytes
                    limit_bytes -= size_bytes
                    taken.append(found.encoded)
                    at[origin] = seq
                    seq += 1
                    progress = True
                if not waiting:
                    del self._waiting[origin]
        return taken

    def origins_of(self, region: str) -> list[str]:
        """Origins of the region of which something waits."""
        return [origin for origin in self._waiting if region_of(origin) == region]

    def drop_past(self, origin: str, seq: int) -> bool:
        """Throw away an origin's entries past a seq; whether there were any."""
        last = max(self._waiting.get(origin, ()), default=0)
        self.drop(origin, seq + 1, last)
        return last > seq

    def give_back(self, encoded: list[EncodedEntry], vector: Mapping[str, int]) -> None:
        """Return what could not be committed; it counts as brought by its origin's region."""
        for each in encoded:
            self.add(each, region_of(each.entry.origin), vector)

    def drop(self, origin: str, first: int, last: int) -> None:
        """Forget entries that have been committed: by another node, or while they came once more."""
        waiting = self._waiting.get(origin)
        if not waiting:
            return
        committed = range(first, last + 1)
        # A snapshot that is installed moves a position by millions at once.
        few = len(committed) <= len(waiting)
        for seq in committed if few else [each for each in waiting if each in committed]:
            found = waiting.pop(seq, None)
            if found is not None:
                self._bytes[found.link] -= len(found.encoded.frame)
        if not waiting:
            del self._waiting[origin]

    def blocked_on(self, vector: Mapping[str, int]) -> dict[str, dict[str, int]]:
        """origin → the components that its next entry waits for, for `atoll status`."""
        blocked: dict[str, dict[str, int]] = {}
        for origin in sorted(self._waiting):
            found = self._waiting[origin].get(vector.get(origin, 0) + 1)
            if found is None:
                blocked[origin] = {origin: vector.get(origin, 0) + 1}
            else:
                blocked[origin] = {
                    o: s for o, s in origins_in(found.encoded.entry.context).items() if vector.get(o, 0) < s
                }
        return blocked


def _follows(context: Mapping[str, int], at: dict[str, int]) -> bool:
    """Whether what the writer had seen is here, but for floors that it raised; then these count as well."""
    floors = raised_by(at, context)
    if floors is None:
        return False
    at |= floors
    return True
