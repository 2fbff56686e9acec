"""After everything healed: the regions against one another, and against what was acknowledged."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from typing import Any

import aiohttp

from atoll.demo.findings import Findings
from atoll.demo.proof import same_audit, same_documents, same_positions

from ..cluster import REGIONS
from .deployment import Deployment
from .feed import Reader, read_whole
from .history import History
from .workload import Workload

_PAGE = 1000
_SETTLE_S = 60.0
_MOVES_S = 2.0
"""Rights of a counter may move between regions for about half as long after it was written."""
_EXPECTED = re.compile(
    r"^\w+ of shop serves shop\.py at \S+, its data lies in \S+$"
    # A proxy that changes bytes between regions; httptools refuses the request, and nothing of it is lost.
    r"|^(WARNING:\s+)?Invalid HTTP request received\.$"
)
_FULL = re.compile(r"cannot be written: |No space left on device|File too large")


async def collect(deployment: Deployment, region: str) -> Findings:
    """Everything that one region says that it holds. Raises aiohttp.ClientError, TimeoutError."""
    found = Findings(region)
    found.position = (await deployment.get(region, "/admin/status"))["position"]
    digests = (await deployment.get(region, "/admin/digest", 120.0))["collections"]
    # Regions go on to write events while one is read after the other.
    found.digests = {name: digest for name, digest in digests.items() if not name.startswith("_")}
    found.parked = len((await deployment.get(region, "/admin/parked"))["items"])
    for collection in found.digests:
        documents: dict[str, Any] = {}
        for item in await _pages(deployment, region, f"/v1/{collection}?limit={_PAGE}&consistency=eventual"):
            if item["key"] in documents:
                found.listed_twice.append(f"{collection}/{item['key']}")
            documents[item["key"]] = item["value"]
        found.documents[collection] = documents
    found.conflicts = await _pages(deployment, region, f"/v1/conflicts?limit={_PAGE}")
    return found


async def _pages(deployment: Deployment, region: str, path: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    cursor = ""
    while True:
        page = await deployment.get(region, path + cursor)
        items += page["items"]
        if page["cursor"] is None:
            return items
        cursor = f"&cursor={page['cursor']}"


async def settle(deployment: Deployment, history: History) -> float | None:
    """Seconds until all regions are at one position. On return they stay there."""
    took_s = await deployment.settled(_SETTLE_S)
    while took_s is not None:
        before = await deployment.positions()
        await asyncio.sleep(_MOVES_S)
        if before is not None and await deployment.positions() == before:
            break
        took_s = await deployment.settled(_SETTLE_S)
    if took_s is None:
        statuses = [await deployment.status(region) for region in REGIONS]
        told = "; ".join(
            f"{s['region']} is at {s['position']}, inbox {s['inbox']}, links {s['links']}"
            for s in statuses
            if s
        )
        history.violated("regions come to one position", f"not within {_SETTLE_S} s: {told}")
    return took_s


async def prove(deployment: Deployment, history: History, workloads: Sequence[Workload]) -> list[Findings]:
    """Hold everything against everything; what is wrong goes into the history."""
    found = [await collect(deployment, region) for region in REGIONS]
    for check in (same_positions(found), same_documents(found), same_audit(found)):
        _told(history, check.name, check.wrong)
    for each in found:
        _told(
            history, "nothing is parked", [f"{each.region} parked {each.parked} changes"] * bool(each.parked)
        )
        for workload in workloads:
            _told(
                history,
                f"{type(workload).__name__}: what was acknowledged is there, once",
                workload.wrong(each),
            )
    for region in REGIONS:
        async with deployment.http.get(f"{deployment.urls[region]}/health/serving") as response:
            _told(
                history, "all serve", [] if response.status == 200 else [f"{region}: {await response.text()}"]
            )
    _told(history, "every write answered", history.unanswered)
    return found


def _told(history: History, promise: str, wrong: Sequence[str]) -> None:
    history.checked[promise] += 1
    for each in wrong[:20]:
        history.violated(promise, each)
    if len(wrong) > 20:
        history.violated(promise, f"and {len(wrong) - 20} more")


async def feeds(
    deployment: Deployment, history: History, position: Mapping[str, int], readers: Sequence[Reader]
) -> None:
    """Consumers come to the end; and whoever reads a region's feed from its beginning sees the same."""
    for reader in readers:
        for _ in range(600):
            if reader.has(position):
                break
            await asyncio.sleep(0.1)
        lacking = [] if reader.has(position) else [f"one is at {reader.seen} of {position}"]
        _told(history, "feed consumers come to the end", lacking)
    for region in REGIONS:
        whole = Reader(f"feed of {region} from its beginning", history)
        try:
            await read_whole(deployment, region, position, whole)
        except (TimeoutError, aiohttp.ClientError) as error:
            _told(history, "feeds can be read again", [f"{region}: {error!r} at {whole.seen} of {position}"])
        for reader in readers:
            _told(history, "feeds agree", [] if whole.stamps == reader.stamps else [f"{region} differs"])


async def outage(deployment: Deployment, history: History, before: Sequence[Findings]) -> None:
    """All lose power at once; afterwards each holds what it held."""
    for region in REGIONS:
        deployment.nodes[region].kill()
    await asyncio.gather(*(deployment.restart(region) for region in REGIONS))
    await settle(deployment, history)
    for each in before:
        after = await deployment.get(each.region, "/admin/digest", 120.0)
        same = {**after["collections"], **each.digests} == after["collections"]
        _told(history, "a power cut changes nothing", [] if same else [f"{each.region} has other digests"])


def logs(deployment: Deployment, history: History) -> None:
    """No region wrote anything but where it serves, and what the disk and the wire did to it."""
    for region, node in deployment.nodes.items():
        forked = [
            line for line in node.log.read_text("utf-8", "replace").splitlines()
            if line and not _EXPECTED.match(line) and not _FULL.search(line)
        ]  # fmt: skip
        _told(history, "quiet logs", [f"{region}: {line}" for line in forked])
