"""Edits of one document from several regions at once, so that every kind of conflict comes up."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import partial
from random import Random
from typing import Any, NamedTuple

from atoll.demo.http_client import HttpClient, Unanswered, ask
from atoll.demo.ledger import Collision, Ledger
from atoll.demo.topology import one_way_s

EVERY_S = 0.35
_MARGIN_S = 0.005
_CLERK_S = 20.0


class Edit(NamedTuple):
    """One region's write. `value` is what it puts into the field that competes; None for a deletion."""

    region: str
    method: str
    body: Any
    value: Any


def _written(region: str, document: dict[str, Any]) -> Edit:
    return Edit(region, "PUT", document, document)


def _deleted(region: str) -> Edit:
    return Edit(region, "DELETE", None, None)


@dataclass(frozen=True, slots=True)
class Collisions:
    """Stages one collision after the other, each on documents of its own."""

    client: HttpClient
    ledger: Ledger
    regions: Sequence[str]
    _: KW_ONLY
    alive: Callable[[str], bool]
    random: Random

    def base(self, seconds: float) -> list[dict[str, Any]]:
        """Documents to be there beforehand, as writes of a batch."""
        rounds = ((number, _STAGES[number % len(_STAGES)][1]) for number in range(self._rounds(seconds)))
        return [before(number) for number, before in rounds if before is not None]

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
        up = [region for region in self.regions if self.alive(region)]
        if len(up) < 2:
            return
        self.random.shuffle(up)
        with contextlib.suppress(Unanswered):  # the ledger has it
            await _STAGES[number % len(_STAGES)][0](self, number, up)

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
        self.ledger.collisions.append(Collision(collection, key, field, values, kind, surely))
        return surely

    async def _send(self, collection: str, key: str, edit: Edit) -> Any:
        return await self.client.write(
            edit.region,
            edit.method,
            f"/v1/{collection}/{key}",
            edit.body,
            idempotency_key=f"edit-{collection}-{key}-{edit.region}",
        )

    # -- one of each -----------------------------------------------------------------------------------

    async def _profile_twice(
        self, number: int, up: list[str], kind: str, *, of: str = "customer", deletes: int | None = None
    ) -> None:
        """`deletes`: which of the two regions, if one does instead of writing."""
        edits = [
            _written(
                region, {"name": f"Customer {number}", "street": f"{number} {region.capitalize()} Street"}
            )
            for region in up[:2]
        ]
        if deletes is not None:
            edits[deletes] = _deleted(up[deletes])
        await self._collide("profile", f"{of}-{number}", edits, kind, in_turn=deletes is not None)

    async def _coupon_claimed(self, number: int, up: list[str]) -> None:
        claims = enumerate(up, number * 10)
        edits = [_written(region, {"household": household, "region": region}) for household, region in claims]
        await self._collide("coupon", f"coupon-{number}", edits, "insert_exists")

    async def _price_set_twice(self, number: int, up: list[str]) -> None:
        edits = [
            _written(region, {"price_cents": self.random.randrange(100, 400), "region": region})
            for region in up[:2]
        ]
        await self._collide("price_tag", f"tag-{number}", edits, "update_origin_differs")

    async def _cart_filled_twice(self, number: int, up: list[str]) -> None:
        key = f"cart-{number}"
        edits = []
        for region in up[:2]:
            body = {"$add": {"items": [f"from {region}"]}, "$set": {"delivery": f"pick up in {region}"}}
            edits.append(Edit(region, "PATCH", body, f"pick up in {region}"))
        await self._collide("cart", key, edits, "update_origin_differs", field="delivery")
        self.ledger.items[key] = {"bread", *(f"from {edit.region}" for edit in edits)}

    async def _cart_checked_out(self, number: int, up: list[str]) -> None:
        key = f"cart-{number}"
        added = Edit(up[1], "PATCH", {"$add": {"items": ["forgotten milk"]}}, {})
        edits = [_deleted(up[0]), added]
        if await self._collide("cart", key, edits, "delete_origin_differs"):
            self.ledger.items[key] = {"forgotten milk"}

    async def _note_edited_twice(self, number: int, up: list[str]) -> None:
        key = f"note-{number}"
        head, tail = f"<{up[0]} begins {number}> ", f" <{up[1]} ends {number}>"
        first = Edit(up[0], "PATCH", {"$splice": {"body": {"at": 0, "insert": head}}}, head)
        second = Edit(up[1], "PATCH", {"$append": {"body": tail}}, tail)
        answers = await asyncio.gather(self._send("note", key, first), self._send("note", key, second))
        texts = zip((head, tail), answers, strict=True)
        self.ledger.notes[key] = ["the rota", *(text for text, answer in texts if answer.status == 200)]

    async def _review_written_twice(self, number: int, up: list[str]) -> None:
        key = f"review-{number}"
        edits = [
            _written(region, {"stars": self.random.randint(1, 5), "text": f"as they see it in {region}"})
            for region in up[:2]
        ]
        surely = await self._collide("review", key, edits, "insert_exists")
        if surely and number // len(_STAGES) % 2 == 0:
            await self._clerk_resolves(key, up[0], edits[1].value)

    async def _clerk_resolves(self, key: str, region: str, chosen: dict[str, Any]) -> None:
        """A person resolves every second review's conflict as soon as it appears."""
        deadline = time.monotonic() + _CLERK_S
        path = f"/v1/conflicts?collection=review&key={key}&status=manual"
        while time.monotonic() < deadline:
            with contextlib.suppress(Unanswered):
                found = (await self.client.read(region, path)).body.get("items")
                if found:
                    return await self._resolve(region, found[0]["id"], chosen)
            await asyncio.sleep(0.3)
        return None

    async def _resolve(self, region: str, conflict_id: str, chosen: dict[str, Any]) -> None:
        url = f"{self.client.urls[region]}/v1/conflicts/{conflict_id}/resolve"
        answer = await ask(self.client.http, "POST", url, {"value": chosen})
        if answer.status == 200:
            self.ledger.resolved_by_hand += 1
        else:
            told = f"{region} answered {answer.status} to a resolution: {answer.body}"
            self.ledger.surprises.append(told)


def put(collection: str, key: str, value: dict[str, Any]) -> dict[str, Any]:
    return {"put": {"collection": collection, "key": key, "value": value}}


def _customer(number: int) -> dict[str, Any]:
    return put("profile", f"customer-{number}", {"name": f"Customer {number}"})


def _cart(number: int) -> dict[str, Any]:
    return put("cart", f"cart-{number}", {"items": ["bread"]})


_Stage = Callable[[Collisions, int, list[str]], Awaitable[None]]
_STAGES: tuple[tuple[_Stage, Callable[[int], dict[str, Any]] | None], ...] = (
    (partial(Collisions._profile_twice, kind="update_origin_differs"), _customer),
    (Collisions._cart_filled_twice, _cart),
    (Collisions._coupon_claimed, None),
    (partial(Collisions._profile_twice, kind="update_deleted", deletes=1), _customer),
    (Collisions._review_written_twice, None),
    (
        Collisions._price_set_twice,
        lambda number: put("price_tag", f"tag-{number}", {"price_cents": 500, "region": "all"}),
    ),
    (Collisions._note_edited_twice, lambda number: put("note", f"note-{number}", {"body": "the rota"})),
    (partial(Collisions._profile_twice, kind="delete_origin_differs", deletes=0), _customer),
    (Collisions._cart_checked_out, _cart),
    (partial(Collisions._profile_twice, kind="insert_exists", of="newcomer"), None),
)
"""What is staged one after the other, and the document that must be there before."""
