"""What this node's acceptors have accepted, and documents here do not show yet."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection
from typing import Final, NamedTuple

from atoll.commit.batch import Batch
from atoll.documents.decided import DECIDED, decision_of

_MOST: Final = 20_000
_EACH: Final = 8
"""So many revisions of one register are told apart."""


class _Revision(NamedTuple):
    revision: int
    since_s: float


class _Accepted(NamedTuple):
    since_s: float
    """When it was noted. None of its revisions was before."""
    revisions: list[_Revision]


class Unshown:
    """Of one node."""

    def __init__(self) -> None:
        self.overflowed = False
        """Whether there was no room for one that documents may not show."""
        self._accepted: OrderedDict[str, _Accepted] = OrderedDict()
        """Register → its revisions, the earliest first. The register that was noted first is first."""

    def accepted(self, register: str, revision: int, now_s: float) -> None:
        """An entry with it is to come, or a later one."""
        known = self._accepted.setdefault(register, _Accepted(now_s, [])).revisions
        if not known or revision > known[-1].revision:
            known.append(_Revision(revision, now_s))
        if len(known) > _EACH:
            known[:2] = [_Revision(known[1].revision, known[0].since_s)]
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
                if register in self._accepted and DECIDED in change.deltas:
                    revision = decision_of(change.deltas).revision
                    self._keep(register, [each for each in self._of(register) if each.revision > revision])

    def late(self, since_s: float, besides: Collection[str] = ()) -> str | None:
        """A register of which something was accepted before `since_s`, other than these."""
        for register, accepted in self._accepted.items():
            if accepted.since_s > since_s:
                return None
            if accepted.revisions[0].since_s <= since_s and register not in besides:
                return register
        return None

    def shown(self, register: str, since_s: float) -> None:
        """Documents somewhere show what had been accepted before `since_s`."""
        self._keep(register, [each for each in self._of(register) if each.since_s > since_s])

    def _of(self, register: str) -> list[_Revision]:
        accepted = self._accepted.get(register)
        return [] if accepted is None else accepted.revisions

    def _keep(self, register: str, left: list[_Revision]) -> None:
        if left:
            self._of(register)[:] = left
        else:
            self._accepted.pop(register, None)
