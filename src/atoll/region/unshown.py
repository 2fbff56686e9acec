"""What this node's acceptors have accepted, and documents here do not show yet."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, NamedTuple

from atoll.commit.batch import Batch
from atoll.documents.decided import DECIDED, decision_of

_MOST: Final = 20_000


class _Accepted(NamedTuple):
    revision: int
    since_s: float


class Unshown:
    """Of one node."""

    def __init__(self) -> None:
        self.overflowed = False
        """Whether there was no room for one that documents may not show."""
        self._accepted: OrderedDict[str, _Accepted] = OrderedDict()
        """Register → the latest. The longest unchanged one first."""

    def accepted(self, register: str, revision: int, now_s: float) -> None:
        """An entry with it is to come, or a later one."""
        self._accepted[register] = _Accepted(revision, now_s)
        self._accepted.move_to_end(register)
        if len(self._accepted) > _MOST:
            self._accepted.popitem(last=False)
            self.overflowed = True

    def committed(self, batch: Batch) -> None:
        """After each commit of this node."""
        if not self._accepted:
            return
        for entry in (*batch.applied, *batch.written):
            for change in entry.changes:
                register = f"{change.collection}/{change.key}"
                accepted = self._accepted.get(register)
                if accepted is None:
                    continue
                if DECIDED in change.deltas and decision_of(change.deltas).revision >= accepted.revision:
                    del self._accepted[register]

    def late(self, since_s: float) -> str | None:
        """The register that was accepted longest ago, if that was before `since_s`."""
        register, accepted = next(iter(self._accepted.items()), ("", None))
        return register if accepted is not None and accepted.since_s <= since_s else None

    def shown(self, register: str, since_s: float) -> None:
        """Documents somewhere show what had been accepted before `since_s`."""
        accepted = self._accepted.get(register)
        if accepted is not None and accepted.since_s <= since_s:
            del self._accepted[register]
