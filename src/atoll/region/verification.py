"""Whether all regions hold the same: digests of one region's collections, compared with those of its peers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import msgspec
from msgspec import UNSET, UnsetType

from atoll.errors import AtollError
from atoll.region.site import Site
from atoll.region.status import Count
from atoll.repair import digests as repair
from atoll.replication.messages import DigestCall, DigestReply


class CollectionDigest(msgspec.Struct):
    documents: Count
    digest: str


class Digests(msgspec.Struct):
    region: str
    collections: dict[str, CollectionDigest]


class PeerComparison(msgspec.Struct):
    different: list[str]
    documents: Count | UnsetType = UNSET
    error: str | UnsetType = UNSET
    """Why the peer could not be compared with."""


class Comparison(CollectionDigest):
    peers: dict[str, PeerComparison]


class Verification(msgspec.Struct):
    region: str
    equal: bool
    collections: dict[str, Comparison]


class Verifier:
    """Of one region against its peers."""

    def __init__(
        self, collections: Iterable[str], peers: Iterable[str], digests: repair.Digests, site: Site
    ) -> None:
        self._collections = tuple(collections)
        self._peers = peers
        self._digests = digests
        self._region = site.name
        self._ask = site.ask

    async def digest(self) -> Digests:
        """Of each collection: how many documents, and a digest that is equal where all of them are."""
        found = {}
        for collection in self._collections:
            reply = await self._digests.of(collection)
            found[collection] = CollectionDigest(reply.count, _folded(reply))
        return Digests(self._region, found)

    async def compare(self) -> Verification:
        """Compare with every peer, and name the documents that differ."""
        found = await asyncio.gather(*(self._compare(name) for name in self._collections))
        compared = [peer for each in found for peer in each.peers.values()]
        equal = all(not peer.different and peer.error is UNSET for peer in compared)
        return Verification(self._region, equal, dict(zip(self._collections, found, strict=True)))

    async def _compare(self, collection: str) -> Comparison:
        here = await self._digests.of(collection)
        peers: dict[str, PeerComparison] = {}
        for peer in tuple(self._peers):
            try:
                there = await self._ask(peer, DigestCall(collection, None), DigestReply)
                different = []
                for bucket in sorted(here.digests.keys() | there.digests.keys(), key=int):
                    if here.digests.get(bucket) != there.digests.get(bucket):
                        different += await self._different(peer, collection, int(bucket))
                peers[peer] = PeerComparison(different, documents=there.count)
            except AtollError as error:
                peers[peer] = PeerComparison([], error=error.message)
        return Comparison(here.count, _folded(here), peers)

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
