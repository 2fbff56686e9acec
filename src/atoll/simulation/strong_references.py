"""References between strong documents.

At every moment, nothing refers to what is not there, unless its policy lets it dangle. The counts are the numbers of
documents that refer. What nothing refers to can be deleted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import product
from random import Random
from typing import Any

import msgspec

from atoll.causality import vector as vectors
from atoll.causality.origin import region_of
from atoll.commit.identity import Address
from atoll.consensus.references import counts_of
from atoll.documents.mutation import Delete, Mutation, patch_of, put_of
from atoll.documents.references import kept_at
from atoll.documents.rules import Rules
from atoll.errors import AtollError
from atoll.schema.system import REFERRED
from atoll.simulation.world import Client, Workload, World

KEYS = ("s0", "s1", "s2")
COLLECTIONS = ("customer", "invoice", "line")
_SHOWN_S = 30.0
"""What a region decided just before it died is shown after ten seconds."""
_DOCUMENTS = tuple(product(COLLECTIONS, KEYS))
_COUNTS = {(REFERRED, kept_at(target)): target for target in product(("customer", "invoice"), KEYS)}

EXISTS = "a strong document refers to what is there"
COUNTED = "references between strong documents are counted"
SHOWN = "regions come to show references as they are"
DELETED = "what no strong document refers to can be deleted"


class StrongReferences(Workload):
    """Clients of all regions refer to a few strong documents, turn to others, and delete them."""

    name = "strong_references"
    moves = 0.4

    def __init__(self, clients: int, mean_s: float) -> None:
        super().__init__(clients + 2, mean_s / 2)

    async def step(self, world: World, client: Client, count: int) -> None:
        if client.random.random() < 0.1:
            await self._look(world, client)
            return
        await client.write(*self._changes(world.rules, client.random), session=False)

    @staticmethod
    def _changes(rules: Mapping[str, Rules], random: Random) -> list[Mutation]:
        """One of a document, and now and then another one beside it that creates what it refers to."""
        collection, key = random.choice(_DOCUMENTS)
        if random.random() < 0.3:
            return [Delete(collection, key)]
        fields: dict[str, Any] = {"note": str(random.random())}
        customer, invoice = random.choice(KEYS), random.choice(KEYS)
        if collection == "invoice":
            fields["customer"] = customer
        elif collection == "line":
            fields["invoice"] = random.choice((None, invoice, invoice))
            fields["seller"] = random.choice((None, customer))
        made = put_of(rules[collection], key, msgspec.json.encode(fields))
        changes: list[Mutation] = [
            patch_of(rules[collection], key, {"$set": fields}) if random.random() < 0.2 else made
        ]
        if collection != "customer" and random.random() < 0.4:
            changes.append(put_of(rules["customer"], customer, b"{}"))
        if collection == "line" and random.random() < 0.4:
            changes.append(put_of(rules["invoice"], invoice, msgspec.json.encode({"customer": customer})))
        return changes

    async def _look(self, world: World, client: Client) -> dict[Address, bytes | None] | None:
        try:
            read, vector = await client.ask(lambda region: region.snapshot([*_DOCUMENTS, *_COUNTS]))
        except AtollError as error:
            world.note_error(error)
            return None
        client.token = vectors.merge(client.token, vector)
        found = {(each.collection, each.key): each.value for each in read}
        for invariant, what in self._wrong(world.rules, found):
            world.verdict.safety(invariant, what)
        return found

    @staticmethod
    def _wrong(
        rules: Mapping[str, Rules], found: Mapping[Address, bytes | None]
    ) -> Iterator[tuple[str, str]]:
        """Invariants that do not hold of what was there at one moment, and why."""
        counts: dict[Address, Counter[str]] = {target: Counter() for target in _COUNTS.values()}
        for collection, key in _DOCUMENTS:
            fields = msgspec.json.decode(found.get((collection, key)) or b"{}")
            for field, target, on_delete in rules[collection].schema.references:
                if (to := fields.get(field)) is None or on_delete == "dangling":
                    continue
                if found.get((target, to)) is None:
                    yield EXISTS, f"{collection}/{key} refers by {field} to {target}/{to}"
                counts[target, to][f"{collection}.{field}"] += 1
        for place, counted in _COUNTS.items():
            told, true = counts_of(found.get(place)), dict(counts[counted])
            if told != true:
                yield COUNTED, f"{'/'.join(counted)} has {true}, and is said to have {told}"

    def _shown_wrong(self, world: World) -> Iterator[str]:
        """The same of what regions show by themselves."""
        for region in world.names:
            shown = {at: world.stored(region, *at).value for at in (*_DOCUMENTS, *_COUNTS)}
            for _, what in self._wrong(world.rules, shown):
                yield f"{region}: {what}"

    async def finish(self, world: World) -> None:
        lost = {region_of(origin) for origin, loss in world.journal.losses.items() if loss.kept < loss.newest}
        if len(lost) > 1:
            return  # a majority of copies may have gone at once, and with it what was decided
        client = world.client("strong_references-finish")
        await self._look(world, client)
        await self.until_none(world, self._shown_wrong, SHOWN, _SHOWN_S)
        found: dict[Address, bytes | None] | None = None
        for collection in COLLECTIONS:  # customers are kept by their invoices; lines go with theirs
            for key in KEYS:
                await client.write(Delete(collection, key))
            found = await self._look(world, client)
        if found is None or any(found["invoice", key] is not None for key in KEYS):
            return
        refused = world.errors["ReferenceViolation"]
        for key in KEYS:
            await client.write(Delete("customer", key))
        if world.errors["ReferenceViolation"] > refused:
            world.verdict.safety(DELETED, "customers are kept by invoices that are gone")
