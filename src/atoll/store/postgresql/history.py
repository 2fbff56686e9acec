"""Which history of a PostgreSQL database a connection sees.

A promoted standby goes on with a new timeline, and may lack the last commits of the server before it. A copy that was
put in a database's place shows by another start of the server. A connection stays with one server process, so it asks
once, when it is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

WHICH = """
SELECT current_setting('synchronous_commit') AS synchronous, pg_is_in_recovery() AS standby,
    (SELECT system_identifier FROM pg_control_system())::text AS system,
    CASE WHEN NOT pg_is_in_recovery() THEN left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) END AS timeline,
    (extract(epoch FROM pg_postmaster_start_time()) * 1000)::bigint::text AS started
"""


class History(NamedTuple):
    system: str = ""
    """Of the database cluster; shared by a primary and its standbys, and by every copy. Empty where the server, being
    no PostgreSQL itself, does not say."""
    timeline: int = 0
    started: str = ""
    """When the server did."""

    def __str__(self) -> str:
        return f"{self.system}/{self.timeline}/{self.started}" if self.system else ""


def history_of(found: Mapping[str, str]) -> History | None:
    """Of a row of `WHICH`; None of a standby, whose history is its primary's."""
    if found["standby"]:
        return None
    return History(found["system"], int(found["timeline"], 16), found["started"])
