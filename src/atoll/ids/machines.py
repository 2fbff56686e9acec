"""A number for each node of a region that makes snowflakes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from atoll.errors import Overloaded

MOST_MACHINES = 32


class Machines:
    """Finds a free number. The node keeps it, and renews it with its other leases, as long as it runs."""

    def __init__(self, claim: Callable[[str], Awaitable[bool]]) -> None:
        """`claim(name)` leases a name to this node, or says that another one has it."""
        self._claim = claim

    async def __call__(self) -> int:
        """Raises Overloaded when 32 nodes have one each, and what the store raises."""
        for number in range(MOST_MACHINES):
            if await self._claim(f"machine {number}"):
                return number
        raise Overloaded(f"snowflakes support {MOST_MACHINES} nodes in a region, and all numbers are in use")
