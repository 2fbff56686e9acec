"""A region's process that notes what holds its event loop, by the processor time of the loop's own thread.

`python watched.py <atoll.toml> <region> <node> <file>`: a line of JSON for each callback that took long.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from atoll.config.config import load_config
from atoll.errors import AtollError
from atoll.node.serving import serve
from atoll.store.collector import collect_rarely

NOTED_S = 0.03
_SAMPLE_S = 0.01
_FRAMES = 6


class Watch:
    """`asyncio.Handle._run` is what the loop calls for everything that it does."""

    def __init__(self, file: Path) -> None:
        self._file = file.open("a", buffering=1)
        self._run = asyncio.Handle._run  # type: ignore[attr-defined]
        self._thread = threading.get_ident()
        self._begun_s: float | None = None
        self._seen = ""
        self._collections = 0
        gc.callbacks.append(self._collects)

        def watched(handle: Any) -> None:
            self.watched(handle)

        asyncio.Handle._run = watched  # type: ignore[attr-defined]
        threading.Thread(target=self._sample, daemon=True).start()

    def watched(self, handle: Any) -> None:
        self._seen, self._begun_s, self._collections = "", time.monotonic(), 0
        spent_s = time.thread_time()
        self._run(handle)
        spent_s = time.thread_time() - spent_s
        self._begun_s = None
        if spent_s > NOTED_S:
            seen = self._seen or repr(handle)[:300]
            told = {"at": time.time(), "s": round(spent_s, 4), "by": seen, "collections": self._collections}
            self._file.write(json.dumps(told) + "\n")

    def _collects(self, phase: str, info: dict[str, int]) -> None:
        if phase == "stop":
            self._collections += 1

    def _sample(self) -> None:
        """See where a callback is that takes long."""
        while True:
            time.sleep(_SAMPLE_S)
            begun_s = self._begun_s
            if begun_s is not None and time.monotonic() - begun_s > NOTED_S:
                stack = traceback.extract_stack(sys._current_frames()[self._thread])[-_FRAMES:]
                self._seen = " < ".join(f"{each.filename}:{each.lineno} {each.name}" for each in stack[::-1])


if __name__ == "__main__":
    config, region, node, noted = sys.argv[1:]
    collect_rarely()  # as `serving.run` does
    try:
        asyncio.run(
            serve(
                load_config(Path(config)), region, lambda: Watch(Path(noted)) and None, node_number=int(node)
            )
        )
    except AtollError as error:
        sys.exit(f"{error.type}: {error.message}")
