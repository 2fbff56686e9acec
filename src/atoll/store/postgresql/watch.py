"""What other nodes of the region have committed: heard by NOTIFY, and asked for now and then in case one was lost."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from atoll.errors import AtollError
from atoll.store.postgresql.database import Database, hang_up

if TYPE_CHECKING:
    import asyncpg

POLL_S = 1.0
_SURVEY_EACH = 5
"""After so many of them other hosts are looked at, too."""
MOST_TOLD_BYTES = 7_999
"""PostgreSQL's bound on what a notification carries."""

logger = logging.getLogger("atoll.store")
decode_positions: Callable[[bytes | str], dict[str, int]] = msgspec.json.Decoder(dict[str, int]).decode
encode_positions: Callable[[Mapping[str, int]], bytes] = msgspec.json.Encoder().encode


def told(run: str, positions: bytes) -> str:
    """What a commit of this run of a node tells the other nodes."""
    text = f"{run} {positions.decode()}"
    return text if len(text.encode()) <= MOST_TOLD_BYTES else run


@dataclass(frozen=True, slots=True)
class Watch:
    """Calls `moved` with the region's positions whenever another node has moved them. Runs until it is cancelled."""

    _database: Database
    _channel: str
    _run: str
    _moved: Callable[[Mapping[str, int]], None]

    async def run(self) -> None:
        while True:
            try:
                await self._listen()
            except AtollError as error:
                logger.info("%s", error.message)
            except Exception as error:
                logger.info("%s", self._database.failure(error).message)
            await asyncio.sleep(POLL_S)

    async def _listen(self) -> None:
        connection = await self._database.connect()
        try:
            await connection.add_listener(self._channel, self._heard)
            rounds = 0
            while not connection.is_closed() and not self._database.outdated(connection):
                rounds += 1
                if rounds % _SURVEY_EACH == 0:
                    await self._database.survey()
                found = await connection.fetchval("SELECT positions FROM _region")
                if not self._database.outdated(connection):
                    self._moved(decode_positions(found))
                await asyncio.sleep(POLL_S)
        finally:
            await hang_up(connection)

    def _heard(self, connection: asyncpg.Connection[Any], pid: int, channel: str, payload: object) -> None:
        run, _, positions = str(payload).partition(" ")
        if run != self._run and positions and not self._database.outdated(connection):
            self._moved(decode_positions(positions))
