"""Edits of one document from several regions at once, so that every kind of conflict comes up."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import aiohttp

from atoll.demo.http_client import HttpClient, Unanswered
from atoll.demo.ledger import Collision, Ledger
from atoll.demo.topology import one_way_s

EVERY_S = 0.35
_MARGIN_S = 0.005
_CLERK_S = 20.0


@dataclass(frozen=True, slots=True)
class Edit:
    """One region's write. `value` is what it puts into the field that competes; None for a deletion."""

    region: str
    method: str
    body: Any
    value: Any


class Collisions:
    """Stages one collision after the other, each on documents of its own."""

    def __init__(
        self,
        client: HttpClient,
        ledger: Ledger,
        regions: Sequence[str],
        *,
        alive: Callable[[str], bool],
        random: Random,
    ) -> None:
        self._client = client
        self._ledger = ledger
        self._regions = tuple(regions)
        self._alive = alive
        self._random = random
        self._stages = (
            self._profile_updated_twice,
            self._cart_filled_twice,
            self._coupon_claimed,
            self._profile_deleted_late,
            self._review_written_twice,
            self._price_set_twice,
            self._note_edited_twice,
            self._profile_deleted_early,
            self._cart_checked_out,
            self._profile_created_twice,
        )

    def base(self, seconds: float) -> list[dict[str, Any]]:
        """Documents to be there beforehand, as writes of a batch."""
        writes = []
        for number in range(self._rounds(seconds)):
            match self._stages[number % len(self._stages)].__name__:
                case "_profile_updated_twice" | "_profile_deleted_late" | "_profile_deleted_early":
                    writes.append(put("profile", f"customer-{number}", {"name": f"Customer {number}"}))
                case "_cart_filled_twice" | "_cart_checked_out":
                    writes.append(put("cart", f"cart-{number}", {"items": ["bread"]}))
                case "_price_set_twice":
                    writes.append(put("price_tag", f"tag-{number}", {"price_cents": 500, "region": "all"}))
                case "_note_edited_twice":
                    writes.append(put("note", f"note-{number}", {"body": "the rota"}))
        return writes

    async def run(self, seconds: float) -> None:
        opening = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for number in range(self._rounds(seconds)):
                await asyncio.sleep(max(0.0, opening + number * EVERY_S - time.monotonic()))
                group.create_task(self._stage(number))

    @staticmethod
    def _rounds(seconds: float) -> int:
        return int(seconds / EVERY_S)

    async def _stage(self, number: int) -> None:
        up = [region for region in self._regions if self._alive(region)]
        if len(up) < 2:
            return
        self._random.shuffle(up)
        with contextlib.suppress(Unanswered):  # the ledger has it
            await self._stages[number % len(self._stages)](number, up)

    async def _collide(
        self,
        collection: str,
        key: str,
        edits: list[Edit],
        kind: str,
        *,
        field: str = "",
        in_turn: bool = False,
    ) -> bool:
        """Send the edits at once, or one right after the other; True if they are certain to be concurrent."""
        began = time.monotonic()
        sending = [self._send(collection, key, edit) for edit in edits]
        answers = [await each for each in sending] if in_turn else list(await asyncio.gather(*sending))
        took_s = time.monotonic() - began
        if any(answer.status != 200 for answer in answers):
            return False
        regions = [edit.region for edit in edits]
        nearest_s = min(one_way_s(one, other) for one in regions for other in regions if one != other)
        surely = took_s < nearest_s - _MARGIN_S and all(answer.attempts == 1 for answer in answers)
        values = tuple(edit.value for edit in edits)
        self._ledger.collisions.append(Collision(collection, key, field, values, kind, surely))
        return surely

    async def _send(self, collection: str, key: str, edit: Edit) -> Any:
        return await self._client.write(
            edit.region,
            edit.method,
            f"/v1/{collection}/{key}",
            edit.body,
            idempotency_key=f"edit-{collection}-{key}-{edit.region}",
        )

    # -- one of each -----------------------------------------------------------------------------------

    async def _profile_updated_twice(self, number: int, up: list[str]) -> None:
        edits = [self._profile(region, number) for region in up[:2]]
        await self._collide("profile", f"customer-{number}", edits, "update_origin_differs")

    async def _profile_created_twice(self, number: int, up: list[str]) -> None:
        edits = [self._profile(region, number) for region in up[:2]]
        await self._collide("profile", f"newcomer-{number}", edits, "insert_exists")

    async def _profile_deleted_late(self, number: int, up: list[str]) -> None:
        edits = [self._profile(up[0], number), Edit(up[1], "DELETE", None, None)]
        await self._collide("profile", f"customer-{number}", edits, "update_deleted", in_turn=True)

    async def _profile_deleted_early(self, number: int, up: list[str]) -> None:
        edits = [Edit(up[0], "DELETE", None, None), self._profile(up[1], number)]
        await self._collide("profile", f"customer-{number}", edits, "delete_origin_differs", in_turn=True)

    @staticmethod
    def _profile(region: str, number: int) -> Edit:
        document = {"name": f"Customer {number}", "street": f"{number} {region.capitalize()} Street"}
        return Edit(region, "PUT", document, document)

    async def _coupon_claimed(self, number: int, up: list[str]) -> None:
        claims = [{"household": number * 10 + place, "region": region} for place, region in enumerate(up)]
        edits = [Edit(claim["region"], "PUT", claim, claim) for claim in claims]  # type: ignore[arg-type]
        await self._collide("coupon", f"coupon-{number}", edits, "insert_exists")

    async def _price_set_twice(self, number: int, up: list[str]) -> None:
        tags = [{"price_cents": self._random.randrange(100, 400), "region": region} for region in up[:2]]
        edits = [Edit(region, "PUT", tag, tag) for region, tag in zip(up, tags, strict=False)]
        await self._collide("price_tag", f"tag-{number}", edits, "update_origin_differs")

    async def _cart_filled_twice(self, number: int, up: list[str]) -> None:
        key = f"cart-{number}"
        edits = []
        for region in up[:2]:
            body = {"$add": {"items": [f"from {region}"]}, "$set": {"delivery": f"pick up in {region}"}}
            edits.append(Edit(region, "PATCH", body, f"pick up in {region}"))
        await self._collide("cart", key, edits, "update_origin_differs", field="delivery")
        self._ledger.items[key] = {"bread", *(f"from {edit.region}" for edit in edits)}

    async def _cart_checked_out(self, number: int, up: list[str]) -> None:
        key = f"cart-{number}"
        added = Edit(up[1], "PATCH", {"$add": {"items": ["forgotten milk"]}}, {})
        edits = [Edit(up[0], "DELETE", None, None), added]
        if await self._collide("cart", key, edits, "delete_origin_differs"):
            self._ledger.items[key] = {"forgotten milk"}

    async def _note_edited_twice(self, number: int, up: list[str]) -> None:
        key = f"note-{number}"
        head, tail = f"<{up[0]} begins {number}> ", f" <{up[1]} ends {number}>"
        first = Edit(up[0], "PATCH", {"$splice": {"body": {"at": 0, "insert": head}}}, head)
        second = Edit(up[1], "PATCH", {"$append": {"body": tail}}, tail)
        answers = await asyncio.gather(self._send("note", key, first), self._send("note", key, second))
        chunks = [
            edit.value for edit, answer in zip((first, second), answers, strict=True) if answer.status == 200
        ]
        self._ledger.notes[key] = ["the rota", *chunks]

    async def _review_written_twice(self, number: int, up: list[str]) -> None:
        key = f"review-{number}"
        reviews = [
            {"stars": self._random.randint(1, 5), "text": f"as they see it in {region}"} for region in up[:2]
        ]
        edits = [Edit(region, "PUT", review, review) for region, review in zip(up, reviews, strict=False)]
        surely = await self._collide("review", key, edits, "insert_exists")
        if surely and number // len(self._stages) % 2 == 0:
            await self._clerk_resolves(key, up[0], reviews[1])

    async def _clerk_resolves(self, key: str, region: str, chosen: dict[str, Any]) -> None:
        """A person resolves every second review's conflict as soon as it appears."""
        deadline = time.monotonic() + _CLERK_S
        path = f"/v1/conflicts?collection=review&key={key}&status=manual"
        while time.monotonic() < deadline:
            try:
                found = (await self._client.read(region, path)).body.get("items")
                if found:
                    await self._resolve(region, found[0]["id"], chosen)
                    return
            except (aiohttp.ClientError, TimeoutError, OSError):
                pass
            await asyncio.sleep(0.3)

    async def _resolve(self, region: str, conflict_id: str, chosen: dict[str, Any]) -> None:
        url = f"{self._client.urls[region]}/v1/conflicts/{conflict_id}/resolve"
        async with self._client.http.post(url, json={"value": chosen}) as response:
            if response.status == 200:
                self._ledger.resolved_by_hand += 1
            else:
                body = await response.text()
                self._ledger.surprises.append(f"{region} answered {response.status} to a resolution: {body}")


def put(collection: str, key: str, value: dict[str, Any]) -> dict[str, Any]:
    return {"put": {"collection": collection, "key": key, "value": value}}
