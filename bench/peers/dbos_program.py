"""Runs workflows of DBOS, in a Python environment of its own: `python dbos_program.py URL CALLERS COUNT`.

Prints JSON: the nanoseconds that each workflow took from its start to its result, and the seconds of all of them.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

import asyncpg  # type: ignore[import-not-found,import-untyped,unused-ignore]
from dbos import DBOS  # type: ignore[import-not-found,unused-ignore]

_TABLES = """
CREATE TABLE IF NOT EXISTS stock (sku text PRIMARY KEY, units bigint NOT NULL);
CREATE TABLE IF NOT EXISTS shipment (id text PRIMARY KEY, sku text NOT NULL);
INSERT INTO stock VALUES ('tea', 1000000) ON CONFLICT DO NOTHING;
"""
_pools: list[asyncpg.Pool] = []


@DBOS.step()  # type: ignore[untyped-decorator,unused-ignore]
async def reserve() -> None:
    await _pools[0].execute("UPDATE stock SET units = units - 1 WHERE sku = 'tea'")


@DBOS.step()  # type: ignore[untyped-decorator,unused-ignore]
async def charge(key: str) -> str:
    await asyncio.sleep(0)  # another company's answer
    return f"payment {key}"


@DBOS.step()  # type: ignore[untyped-decorator,unused-ignore]
async def ship(key: str) -> None:
    await _pools[0].execute("INSERT INTO shipment VALUES ($1, 'tea') ON CONFLICT DO NOTHING", key)


@DBOS.workflow()  # type: ignore[untyped-decorator,unused-ignore]
async def checkout(key: str) -> str:
    await reserve()
    payment: str = await charge(key)
    await ship(key)
    return payment


async def run(url: str, callers: int, count: int) -> dict[str, object]:
    _pools.append(await asyncpg.create_pool(url, min_size=callers, max_size=callers))
    await _pools[0].execute(_TABLES)
    left, took_ns = iter(range(count)), []

    async def caller() -> None:
        for number in left:
            before = time.perf_counter_ns()
            handle = await DBOS.start_workflow_async(checkout, f"{before}-{number}")
            await handle.get_result()
            took_ns.append(time.perf_counter_ns() - before)

    began = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(callers)))
    elapsed_s = time.perf_counter() - began
    await _pools[0].close()
    return {"took_ns": took_ns, "elapsed_s": elapsed_s}


def main() -> None:
    url, callers, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    DBOS(
        config={"name": "bench", "system_database_url": url, "log_level": "ERROR", "run_admin_server": False}
    )
    DBOS.launch()
    asyncio.run(run(url, 1, 20))  # what is set up at the first use
    _pools.clear()
    sys.stdout.write(json.dumps(asyncio.run(run(url, callers, count))) + "\n")
    sys.stdout.flush()
    DBOS.destroy()


if __name__ == "__main__":
    main()
