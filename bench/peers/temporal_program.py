"""Runs workflows of Temporal, in a Python environment of its own: `python temporal_program.py ADDRESS CALLERS COUNT`.

Prints JSON: the nanoseconds that each workflow took from its start to its result, and the seconds of all of them. The
steps do nothing: Temporal keeps no documents.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from datetime import timedelta

from temporalio import activity, workflow  # type: ignore[import-not-found,unused-ignore]
from temporalio.client import Client  # type: ignore[import-not-found,unused-ignore]
from temporalio.worker import (  # type: ignore[import-not-found,unused-ignore]
    UnsandboxedWorkflowRunner,
    Worker,
)

_WITHIN = timedelta(seconds=30)
_QUEUE = "bench"


@activity.defn  # type: ignore[untyped-decorator,unused-ignore]
async def reserve() -> None:
    pass


@activity.defn  # type: ignore[untyped-decorator,unused-ignore]
async def charge(key: str) -> str:
    return f"payment {key}"


@activity.defn  # type: ignore[untyped-decorator,unused-ignore]
async def ship(key: str) -> None:
    pass


@workflow.defn  # type: ignore[untyped-decorator,unused-ignore]
class Checkout:
    @workflow.run  # type: ignore[untyped-decorator,unused-ignore]
    async def run(self, key: str) -> str:
        await workflow.execute_activity(reserve, start_to_close_timeout=_WITHIN)
        payment: str = await workflow.execute_activity(charge, key, start_to_close_timeout=_WITHIN)
        await workflow.execute_activity(ship, key, start_to_close_timeout=_WITHIN)
        return payment


async def run(client: Client, callers: int, count: int) -> dict[str, object]:
    left, took_ns = iter(range(count)), []

    async def caller() -> None:
        for number in left:
            before = time.perf_counter_ns()
            key = f"{before}-{number}"
            await client.execute_workflow(Checkout.run, key, id=key, task_queue=_QUEUE)
            took_ns.append(time.perf_counter_ns() - before)

    began = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(callers)))
    return {"took_ns": took_ns, "elapsed_s": time.perf_counter() - began}


async def main() -> None:
    address, callers, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    client = await Client.connect(address)
    worker = Worker(
        client,
        task_queue=_QUEUE,
        workflows=[Checkout],
        activities=[reserve, charge, ship],
        workflow_runner=UnsandboxedWorkflowRunner(),
    )
    async with worker:
        await run(client, 1, 10)  # what is set up at the first use
        found = await run(client, callers, count)
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    asyncio.run(main())
