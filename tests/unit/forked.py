"""Work in a forked process."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from typing import Any

import msgspec


def forked(work: Callable[[], Any]) -> Callable[[], Any]:
    """Begin `work` in a forked process; the function returned waits for its result."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # of a fork beside threads: that is what is tested
        pid = os.fork()
    if pid == 0:
        try:
            try:
                result = work()
            except BaseException as error:
                result = [type(error).__name__, str(error)]
            os.write(writing, msgspec.json.encode(result))
        finally:
            os._exit(0)
    os.close(writing)

    def result() -> Any:
        with open(reading, "rb") as pipe:
            text = pipe.read()
        os.waitpid(pid, 0)
        return msgspec.json.decode(text)

    return result
