"""Clients of simulated regions: their requests go over the simulated network to the real HTTP application."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import cached_property
from random import Random

from atoll.causality.token import TokenCodec
from atoll.client.transport import Request, Response, Stream
from atoll.errors import Indefinite, RegionUnreachable
from atoll.http import direct
from atoll.http.app import App
from atoll.http.sessions import Sessions
from atoll.replication.emulation import Emulation
from atoll.testing.cluster import KEY, Cluster, SimulatedNode
from atoll.testing.network import Path

_CONNECT_S = 1.0
"""How long it takes to notice that nobody answers at the other end."""


class HttpFront:
    """What answers HTTP in front of a cluster's nodes."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self._apps: dict[str, tuple[int, App]] = {}
        """Node → the run that it is of, and its application."""

    @cached_property
    def codec(self) -> TokenCodec:
        return TokenCodec(KEY, "simulation", lambda: (*self.cluster.names, *self.cluster.gone))

    def app(self, node: SimulatedNode) -> App:
        """Of the node's present run."""
        run, app = self._apps.get(node.name, (0, None))
        if app is None or run != node.runs:
            assert node.region is not None
            assert node.ids is not None
            app = App(
                node.region,
                Sessions(node.region, self.codec),
                Emulation(node.disk.region, lambda _: 0.0),
                node.ids,
                link_key=KEY,
                url=f"http://{node.disk.region}",
                test_topology=False,
            )
            self._apps[node.name] = (node.runs, app)
        return app


class SimulatedTransport:
    """`client.transport.Transport` of one client, that lives near one region and shares its cuts.

    It delivers single requests; there are no streams.
    """

    def __init__(
        self, front: HttpFront, home: str, random: Random, answered: Callable[[Request, Response], None]
    ) -> None:
        """`answered` sees every answer that comes back."""
        self.loss = 0.0
        """Probability that a connection breaks on either way."""
        self._front = front
        self._home = home
        self._random = random
        self._answered = answered
        self._near = Path(delay_s=0.002)

    async def send(self, request: Request) -> Response:
        sent = False

        def leaves() -> None:
            nonlocal sent
            sent = True

        try:
            async with asyncio.timeout(request.timeout_s):
                response = await self._exchange(request, leaves)
        except TimeoutError:
            kind = Indefinite if sent else RegionUnreachable
            raise kind(f"{request.region} did not answer in time", region=request.region) from None
        self._answered(request, response)
        return response

    async def _exchange(self, request: Request, leaves: Callable[[], None]) -> Response:
        region, draw = request.region, self._random.random
        cluster, network = self._front.cluster, self._front.cluster.network
        there, back = self._path(self._home, region), self._path(region, self._home)
        if there.cut or back.cut or not network.nodes(region):
            await asyncio.sleep(_CONNECT_S if there.cut or back.cut else there.delay_s)
            raise RegionUnreachable(f"{region} does not answer", region=region)
        leaves()
        await asyncio.sleep(there.delay_s + draw() * there.jitter_s)
        nodes = network.nodes(region)
        if not nodes or draw() < self.loss:
            raise Indefinite(f"the connection to {region} broke", region=region)
        node = cluster.nodes[self._random.choice(nodes)[0].name]
        scope = direct.scope_of(
            request.method, request.path, request.query, {"host": region, **request.headers}
        )
        answer = await node.ask(lambda _: direct.ask(self._front.app(node), scope, request.body))
        await asyncio.sleep(back.delay_s + draw() * back.jitter_s)
        if self._path(region, self._home).cut or draw() < self.loss:
            raise Indefinite(f"the answer of {region} was lost", region=region)
        return answer

    def _path(self, source: str, target: str) -> Path:
        return self._near if source == target else self._front.cluster.network.path(source, target)

    def stream(self, request: Request) -> AbstractAsyncContextManager[Stream]:
        raise RegionUnreachable("there are no streams here", region=request.region)

    async def close(self) -> None:
        """Nothing is held."""

    def forget(self) -> None:
        """Nothing is held."""
