"""Whether all regions hold the same: digests of one region's collections, compared with those of its peers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from atoll.errors import AtollError
from atoll.region.site import Site
from atoll.repair.digests import Digests
from atoll.replication.messages import DigestCall, DigestReply


class Verification:
    """Of one region against its peers."""

    def __init__(
        self, collections: Iterable[str], peers: Iterable[str], digests: Digests, site: Site
    ) -> None:
        self._collections = tuple(collections)
        self._peers = peers
        self._digests = digests
        self._ask = site.ask

    async def digest(self) -> dict[str, Any]:
        """collection → how many documents, and a digest that is equal where all of them are."""
        found = {}
        for collection in self._collections:
            reply = await self._digests.of(collection)
            found[collection] = {"documents": reply.count, "digest": _folded(reply)}
        return found

    async def compare(self) -> dict[str, Any]:
        """Compare with every peer, and name the documents that differ."""
        found = await asyncio.gather(*(self._compare(name) for name in self._collections))
        equal = all(
            not peer["different"] and "error" not in peer for each in found for peer in each["peers"].values()
        )
        return {"equal": equal, "collections": dict(zip(self._collections, found, strict=True))}

    async def _compare(self, collection: str) -> dict[str, Any]:
        here = await self._digests.of(collection)
        peers: dict[str, Any] = {}
        for peer in tuple(self._peers):
            try:
                there = await self._ask(peer, DigestCall(collection, None), DigestReply)
                different = []
                for bucket in sorted(here.digests.keys() | there.digests.keys(), key=int):
                    if here.digests.get(bucket) != there.digests.get(bucket):
                        different += await self._different(peer, collection, int(bucket))
                peers[peer] = {"documents": there.count, "different": different}
            except AtollError as error:
                peers[peer] = {"error": error.message, "different": []}
        return {"documents": here.count, "digest": _folded(here), "peers": peers}

    async def _different(self, peer: str, collection: str, bucket: int) -> list[str]:
        """Keys of the documents in one bucket that differ."""
        ours = (await self._digests.of(collection, bucket)).digests
        theirs = (await self._ask(peer, DigestCall(collection, bucket), DigestReply)).digests
        return sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key))


def _folded(reply: DigestReply) -> str:
    folded = bytes(16)
    for digest in reply.digests.values():
        folded = bytes(a ^ b for a, b in zip(folded, digest, strict=True))
    return folded.hex()
