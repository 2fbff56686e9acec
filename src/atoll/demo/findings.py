"""What the regions themselves say that they hold, asked for after the shop has closed."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from atoll.demo.http_client import HttpClient, Unanswered
from atoll.errors import AtollError

_PAGE = 1000
_PAUSE_S = 0.2


@dataclass(slots=True)
class Findings:
    """One region's own answers."""

    region: str
    position: dict[str, int] = field(default_factory=dict)
    digests: dict[str, dict[str, Any]] = field(default_factory=dict)
    """collection → `documents` and `digest`."""
    documents: dict[str, dict[str, Any]] = field(default_factory=dict)
    """collection → key → document, from listing all pages."""
    listed_twice: list[str] = field(default_factory=list)
    conflicts: list[dict[str, Any]] = field(default_factory=list)
    sagas: dict[str, dict[str, Any]] = field(default_factory=dict)
    """key → how it stands."""
    parked: int = 0


async def settle(
    client: HttpClient, regions: tuple[str, ...], *, within_s: float, tell: Callable[[str], None]
) -> bool:
    """Wait until all regions have seen the same; False when they have not in time."""
    deadline = time.monotonic() + within_s
    while True:
        with contextlib.suppress(Unanswered):
            found = await asyncio.gather(*(client.read(region, "/admin/status") for region in regions))
            positions = [answer.body["position"] for answer in found]
            waiting = sum(answer.body["inbox"]["entries"] for answer in found)
            if all(position == positions[0] for position in positions) and not waiting:
                return True
        if time.monotonic() > deadline:
            return False
        tell("waiting until all regions have the same")
        await asyncio.sleep(_PAUSE_S)


async def collect_settled(
    client: HttpClient, regions: tuple[str, ...], *, within_s: float, tell: Callable[[str], None]
) -> tuple[bool, list[Findings]]:
    """Whether all regions have seen the same, and what each holds, with no write between their answers.

    A write that nobody waits for any more may still be made while they are asked. They are asked anew then.

    Raises AtollError when a region does not answer as it should.
    """
    deadline = time.monotonic() + within_s
    while True:
        settled = await settle(client, regions, within_s=deadline - time.monotonic(), tell=tell)
        tell("asking each region for everything it holds")
        found = list(await asyncio.gather(*(collect(client, region) for region in regions)))
        positions = [(await _get(client, region, "/admin/status"))["position"] for region in regions]
        still = all(position == found[0].position for position in positions)
        if still or not settled:
            return settled and still, found
        if time.monotonic() > deadline:
            return False, found


async def collect(client: HttpClient, region: str) -> Findings:
    """Everything that the proof compares. Raises AtollError when the region does not answer as it should."""
    found = Findings(region)
    found.position = (await _get(client, region, "/admin/status"))["position"]
    digests: dict[str, dict[str, Any]] = (await _get(client, region, "/admin/digest"))["collections"]
    found.digests = {name: digest for name, digest in digests.items() if not name.startswith("_")}
    found.parked = len((await _get(client, region, "/admin/parked"))["items"])
    for collection in found.digests:
        documents: dict[str, Any] = {}
        for item in await _pages(client, region, f"/v1/{collection}?limit={_PAGE}"):
            if item["key"] in documents:
                found.listed_twice.append(f"{collection}/{item['key']}")
            documents[item["key"]] = item["value"]
        found.documents[collection] = documents
    sagas = await _pages(client, region, f"/v1/sagas?saga=delivery&limit={_PAGE}")
    found.sagas = {item["key"]: item for item in sagas}
    found.conflicts = await _pages(client, region, f"/v1/conflicts?limit={_PAGE}")
    return found


async def _pages(client: HttpClient, region: str, path: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    cursor = ""
    while True:
        page = await _get(client, region, path + cursor)
        items += page["items"]
        if page["cursor"] is None:
            return items
        cursor = f"&cursor={page['cursor']}"


async def _get(client: HttpClient, region: str, path: str) -> Any:
    try:
        answer = await client.read(region, path)
    except Unanswered as error:
        raise AtollError(f"{region}: {error}") from error
    if answer.status != 200:
        raise AtollError(f"{region} answered {answer.status} to {path}: {answer.body}")
    return answer.body
