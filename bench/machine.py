"""Where something was measured, and with what."""

from __future__ import annotations

import os
import platform
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import apsw
import psutil  # type: ignore[import-untyped]

from atoll import __version__

_LIBRARIES = ("aiohttp", "asyncpg", "redis", "hiredis", "uvloop", "uvicorn")


def machine(started: float) -> dict[str, object]:
    """`started` is of `time.monotonic`."""
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "took_seconds": round(time.monotonic() - started, 1),
        "cores": os.cpu_count(),
        "processor": _processor(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "sqlite": apsw.sqlite_lib_version(),
        "atoll": __version__,
        "libraries": {name: version(name) for name in _LIBRARIES},
        "load": [round(each, 2) for each in os.getloadavg()],
    }


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8")
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor()
