"""Regions behind their HTTP application, asked without a socket."""

from __future__ import annotations

import os
from typing import Any, NamedTuple
from urllib.parse import urlencode

import msgspec

from atoll.causality.token import TokenCodec
from atoll.client.transport import Request
from atoll.documents.mutation import Mutation
from atoll.embedded.asgi_transport import AsgiTransport
from atoll.http.app import App
from atoll.http.sessions import Sessions
from atoll.ids import IdService
from atoll.replication.emulation import Emulation
from atoll.replication.wire import derive_key
from atoll.schema.application import Application

from ..commit.replica import Replica, rules_of
from ..commit.shop import SHOP
from ..region.world import KEY, World

RULES = rules_of(SHOP)
CODEC = TokenCodec(KEY, "shop", lambda: ("a", "b", "c"))
CALLS_KEY = derive_key(KEY, "calls")


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)

    @property
    def problem(self) -> str:
        """The slug of a problem document."""
        assert self.headers["content-type"] == "application/problem+json"
        slug: str = self.json["type"].removeprefix("urn:atoll:problem:")
        return slug


class Served(World):
    """`async with Served() as it`: region a alone; name more to have more."""

    def __init__(
        self, *names: str, application: Application = SHOP, test_topology: bool = True, **options: Any
    ) -> None:
        super().__init__(*(names or ("a",)), application=application, **options)
        self.test_topology = test_topology
        self.apps: dict[str, App] = {}

    async def __aenter__(self) -> Served:
        await super().__aenter__()
        for name in self.names:
            self.apps[name] = self._app(name)
        return self

    def _app(self, name: str) -> App:
        region, store = self[name], self.stores[name]
        ids = IdService(
            name,
            region_number=1,
            claim=region.node_leases.claim,
            clock=region.now_ms,
            random=os.urandom,
            counters=store,
        )
        return App(
            region,
            Sessions(region, CODEC),
            Emulation(name, lambda _: 0.0),
            ids,
            link_key=CALLS_KEY,
            url="http://here",
            test_topology=self.test_topology,
        )

    def transport(self, region: str = "a") -> AsgiTransport:
        return AsgiTransport(self.apps[region])

    async def ask(
        self,
        method: str,
        path: str,
        body: Any = b"",
        *,
        query: Any = "",
        region: str = "a",
        **headers: str,
    ) -> Answer:
        """Header names are given with underscores; a body that is not bytes is sent as JSON, which it also is called
        unless `content_type` says otherwise."""
        if not isinstance(body, bytes):
            body = msgspec.json.encode(body)
        if not isinstance(query, str):
            query = urlencode(query, doseq=True)
        if method in ("PUT", "PATCH", "POST"):
            headers = {"content_type": "application/json", **headers}
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        response = await self.transport(region).send(Request(region, method, path, query, named, body, 5.0))
        return Answer(response.status, dict(response.headers), response.body)

    async def arrived(self, *mutations: Mutation, stamp_ms: int = 1_000_000) -> None:
        """Region b wrote these, one entry each and without having seen anything of a."""
        replica = Replica("b", RULES)
        replica.time_ms = stamp_ms
        for mutation in mutations:
            replica.write(mutation)
        self["a"].deliver(replica.journal, "b")
        await self["a"].group_commit.progress.covered({"b": len(mutations)})
