"""Entries that exist nowhere any more: where the former incarnations of all regions ended."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from atoll.causality.origin import incarnation_of, of_region, region_of
from atoll.causality.vector import folds
from atoll.errors import InvalidToken


class Lost:
    """Of one node. It goes by what regions say of their own former incarnations, and hand on."""

    def __init__(
        self, own: Callable[[], Mapping[str, int]], position: Callable[[], Mapping[str, int]] = dict
    ) -> None:
        """`own` gives the region's former incarnations and their last entries, `position` what is here of all."""
        self._own = own
        self._position = position
        self._ends: dict[str, int] = {}

    def closed(self, ends: Mapping[str, int]) -> None:
        """Settled former incarnations → their last entry, as a peer knows them."""
        for origin, end in ends.items():
            # Many ended before they numbered anything: 0 counts, unlike in a vector.
            self._ends[origin] = max(end, self._ends.get(origin, 0))

    def ended(self, origin: str) -> bool:
        """Whether a peer counts the region's incarnation, or a later one, as over."""
        known = of_region(self._ends, region_of(origin))
        return any(incarnation_of(each) >= incarnation_of(origin) for each in known)

    def ends(self) -> dict[str, int]:
        """The same of all regions, as far as they are known here."""
        return {**self._ends, **self._own()}

    def beyond(self, vector: Mapping[str, int]) -> dict[str, int]:
        """The components of a vector that claim lost entries, with the last one that is left."""
        here = self._position()
        over = {origin: here.get(origin, 0) for origin in vector if folds(here, origin)}
        ends = over | self.ends()
        return {origin: end for origin, end in ends.items() if vector.get(origin, 0) > end}

    def check(self, token: Mapping[str, int]) -> None:
        """Raises InvalidToken for a session's token that names lost entries."""
        if beyond := self.beyond(token):
            what = ", ".join(f"{origin} past entry {end}" for origin, end in sorted(beyond.items()))
            raise InvalidToken(
                f"session token refused: what it has seen of {what} was lost with the region's data; start a new "
                "session without a token",
                reason="lost",
                lost=beyond,
            )
