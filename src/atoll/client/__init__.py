"""The Python client: `connect` for asyncio, `connect_sync` without.

- `endpoints` and `routing` know the regions, and which one a call goes to.
- `calls`, `batch` and `models` say what a call asks, and how its answer is read.
- `exchange` and `feed` take one call, or the change feed, from start to end: attempts, failover, deadlines.
- `database` drives these over a `Transport`. `sync_database` runs the same coroutines over one that blocks.

All decisions are made without I/O in `exchange` and `feed`. A further transport has the three methods in `transport`.
"""

from __future__ import annotations

from atoll.client.batch import Delete, Patch, Put, Update
from atoll.client.connecting import connect, connect_sync
from atoll.client.database import Database, Session
from atoll.client.options import ClientOptions
from atoll.client.results import Change, DocumentChange, Read, Sibling
from atoll.client.sagas import SagaStatus, StepRecord
from atoll.client.sync_database import SyncDatabase, SyncSession
from atoll.client.transport import Request, Response, Stream, SyncStream, SyncTransport, Transport
from atoll.config.config import RegionConfig

__all__ = [
    "Change",
    "ClientOptions",
    "Database",
    "Delete",
    "DocumentChange",
    "Patch",
    "Put",
    "Read",
    "RegionConfig",
    "Request",
    "Response",
    "SagaStatus",
    "Session",
    "Sibling",
    "StepRecord",
    "Stream",
    "SyncDatabase",
    "SyncSession",
    "SyncStream",
    "SyncTransport",
    "Transport",
    "Update",
    "connect",
    "connect_sync",
]
