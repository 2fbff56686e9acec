"""The urls of each region's nodes, and which of them to ask next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


class NodeUrls:
    """Threads may share it: a change is one step under the interpreter's lock."""

    def __init__(self, urls: Mapping[str, str | Sequence[str]]) -> None:
        self._urls = {
            region: (given,) if isinstance(given, str) else tuple(given) for region, given in urls.items()
        }

    def all(self) -> frozenset[str]:
        return frozenset(url for urls in self._urls.values() for url in urls)

    def count(self, region: str) -> int:
        return len(self._urls[region])

    def of(self, region: str) -> str:
        """The one to ask."""
        return self._urls[region][0]

    def leave(self, region: str, url: str) -> None:
        """It did not answer: from now on the next one is asked, unless that is so already."""
        urls = self._urls[region]
        if urls[0] == url:
            self._urls[region] = (*urls[1:], url)
