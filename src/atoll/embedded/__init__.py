"""A region inside the application's own process: `atoll.open`. A local read is a function call."""

from __future__ import annotations

from atoll.embedded.database import EmbeddedDatabase
from atoll.embedded.opening import open

__all__ = ["EmbeddedDatabase", "open"]
