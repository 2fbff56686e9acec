"""The leases of one node, as `recovery.node_leases` decides on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from atoll.causality.types import Generation
from atoll.protocol import port
from atoll.recovery.node_leases import Claimed, Event, LeasesState, Released, Wanted, step
from atoll.region.driver import Driver, Performing
from atoll.store.port import Store


class NodeLeases(Driver[LeasesState, Event]):
    """`take` once, then `run`."""

    def __init__(self, wanted: Sequence[str], store: Store, performer: Performing, *, lease_s: float) -> None:
        self._store = store
        super().__init__(LeasesState(store.holder, tuple(wanted), lease_s), step, performer)

    @property
    def held(self) -> Mapping[str, Generation]:
        """lease → its generation."""
        return self.state.held

    async def take(self) -> None:
        """Hold this node's share, if nobody else does yet, and give back what is another's. Raises what the store
        raises.
        """
        self.post(port.Woken())
        await self.settle()

    def want(self, names: Sequence[str]) -> None:
        """Share these out from now on."""
        self.post(Wanted(tuple(names)))

    async def claim(self, name: str) -> Generation | None:
        """Hold this as well from now on; None when another node does. Returns the lease's generation.

        Raises what the store raises.
        """
        generation = (await self._store.lease([name], self.state.lease_s)).get(name)
        if generation is not None:
            self.post(Claimed(name, generation))
        return generation

    async def release(self, name: str) -> None:
        """Hold what was claimed no longer, so that another node may. Raises what the store raises."""
        if name in self.state.claimed:
            self.post(Released(name))
            await self._store.give_back([name])
