"""Identifiers that no two regions give out alike, without asking one another.

`IdService` serves all kinds. Time, randomness and the durable counter are parameters, so that a simulation
repeats its identifiers.
"""

from __future__ import annotations

from atoll.ids.prefixed import PrefixedId, RangeAllocator, Reserve, parse_prefixed
from atoll.ids.service import KINDS, MAX_COUNT, Counters, IdService
from atoll.ids.snowflake import SnowflakeGenerator, SnowflakeParts, parse_snowflake, region_number
from atoll.ids.sortable import SortableIds

__all__ = [
    "KINDS",
    "MAX_COUNT",
    "Counters",
    "IdService",
    "PrefixedId",
    "RangeAllocator",
    "Reserve",
    "SnowflakeGenerator",
    "SnowflakeParts",
    "SortableIds",
    "parse_prefixed",
    "parse_snowflake",
    "region_number",
]
