"""Identifiers that no two regions give out alike, without asking one another.

`IdService` serves all kinds. Time, randomness and the durable counter are parameters, so that a simulation
repeats its identifiers.
"""

from __future__ import annotations

from atoll.ids.prefixed import parse_prefixed
from atoll.ids.service import KINDS, MAX_COUNT, IdService
from atoll.ids.snowflake import SnowflakeParts, parse_snowflake, region_number

__all__ = [
    "KINDS",
    "MAX_COUNT",
    "IdService",
    "SnowflakeParts",
    "parse_prefixed",
    "parse_snowflake",
    "region_number",
]
