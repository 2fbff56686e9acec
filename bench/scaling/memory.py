"""`python -m bench.scaling.memory REGIONS`: how many resident bytes an idle deployment of that size takes.

A process of its own for each size, so that nothing is left over from another.
"""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys

import psutil  # type: ignore[import-untyped]

from atoll.testing import simulated
from bench.scaling.deployment import Deployment


def measure(regions: int) -> dict[str, float]:
    """What an empty region takes, links of both directions and the simulated network's part of them included."""
    command = [sys.executable, "-m", "bench.scaling.memory", str(regions)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    grown = int(done.stdout)
    return {
        "kb_per_region": round(grown / regions / 1000),
        "kb_per_peer": round(grown / (regions * (regions - 1)) / 1000, 1),
    }


def _grown_bytes(regions: int) -> int:
    """From a deployment of two to one of `regions`, in this process."""
    process = psutil.Process()

    async def run(count: int) -> int:
        deployment = Deployment(count, "memory")
        before = int(process.memory_info().rss)
        await deployment.start()
        await asyncio.sleep(4.0)
        gc.collect()
        return int(process.memory_info().rss) - before

    simulated(lambda: run(2))  # what is loaded and made only once
    return simulated(lambda: run(regions))


if __name__ == "__main__":
    print(_grown_bytes(int(sys.argv[1])))
