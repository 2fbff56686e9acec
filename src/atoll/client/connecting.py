"""`atoll.connect` and `atoll.connect_sync`."""

from __future__ import annotations

import os
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from atoll.client.endpoints import Deployment, endpoints_of
from atoll.client.options import DEFAULTS, ClientOptions, fitted
from atoll.config.config import Config, load_config
from atoll.schema import Application, Limits

if TYPE_CHECKING:
    from atoll.client.database import Database
    from atoll.client.sync_database import SyncDatabase


def connect(
    deployment: Deployment,
    *,
    near: str | None = None,
    app: Application | None = None,
    options: ClientOptions = DEFAULTS,
    random: Random | None = None,
) -> Database:
    """A client of a deployment, for `async with`.

    `deployment` is a path to atoll.toml, a `Config`, or `{region: url}`. `near` is the region to prefer;
    the others follow by distance. `app` brings its own bounds on documents. Nothing is contacted before
    the `async with`. Raises ConfigError.
    """
    from atoll.client.aiohttp_transport import AiohttpTransport
    from atoll.client.database import Database
    from atoll.client.multiplexing import Multiplexed

    deployment, limits = _read(deployment, app)
    endpoints = endpoints_of(deployment)
    options = fitted(options, limits, len(endpoints))
    single = AiohttpTransport({endpoint.name: endpoint.urls for endpoint in endpoints}, options)
    transport = Multiplexed(single, options)
    return Database(transport, endpoints, near=near, options=options, limits=limits, random=random)


def connect_sync(
    deployment: Deployment,
    *,
    near: str | None = None,
    app: Application | None = None,
    options: ClientOptions = DEFAULTS,
    random: Random | None = None,
) -> SyncDatabase:
    """As `connect`, for `with`; may be shared by threads."""
    from atoll.client.sync_database import SyncDatabase
    from atoll.client.urllib3_transport import Urllib3Transport

    deployment, limits = _read(deployment, app)
    endpoints = endpoints_of(deployment)
    options = fitted(options, limits, len(endpoints))
    transport = Urllib3Transport({endpoint.name: endpoint.urls for endpoint in endpoints}, options)
    return SyncDatabase(transport, endpoints, near=near, options=options, limits=limits, random=random)


def _read(deployment: Deployment, app: Application | None) -> tuple[Deployment, Limits | None]:
    """The deployment with its file read, and the bounds on documents that hold for it."""
    if isinstance(deployment, str | os.PathLike):
        deployment = load_config(Path(deployment))
    if app is not None:
        for schema in app.collections.values():
            return deployment, schema.limits
    return deployment, deployment.limits if isinstance(deployment, Config) else None
