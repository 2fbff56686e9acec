"""Which regions have started sagas that are not over: the rights to run these matter to this node.

It hears of its own commits. Other nodes of its region commit, too, and a snapshot or another database brings sagas
without a commit. So the store is looked through now and then, and what is found there counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import msgspec

from atoll.sagas.instance import OVER


class _Standing(msgspec.Struct):
    """Of a saga's document: as much as is needed to know whether somebody has to run it."""

    home: str
    status: str


_standing = msgspec.json.Decoder(_Standing).decode


class UnderWay:
    """Of one node."""

    def __init__(self) -> None:
        self._home_of: dict[str, str] = {}
        self._count: Counter[str] = Counter()
        """Home → how many."""
        self._meanwhile: dict[str, str | None] | None = None
        """What commits have changed since a look began; None while there is none."""

    @property
    def homes(self) -> list[str]:
        return [home for home, count in self._count.items() if count]

    def note(self, key: str, text: bytes | None) -> None:
        """A commit has made the saga's document this; None deletes it."""
        home = home_of(text)
        self._set(key, home)
        if self._meanwhile is not None:
            self._meanwhile[key] = home

    def begin(self) -> None:
        """The store is looked through."""
        self._meanwhile = {}

    def end(self, found: Mapping[str, str]) -> None:
        """It holds these, key → home, unless commits have changed them since."""
        meanwhile, self._meanwhile = self._meanwhile or {}, None
        for key in [key for key in self._home_of if key not in found and key not in meanwhile]:
            self._set(key, None)
        for key, home in found.items():
            if key not in meanwhile:
                self._set(key, home)

    def _set(self, key: str, home: str | None) -> None:
        before = self._home_of.pop(key, None)
        if before is not None:
            self._count[before] -= 1
        if home is not None:
            self._home_of[key] = home
            self._count[home] += 1


def home_of(text: bytes | None, *, over: bool = False) -> str | None:
    """The region that has started the saga; None where it is over, unless that is no matter."""
    if text is None:
        return None
    standing = _standing(text)
    return None if standing.status in OVER and not over else standing.home
