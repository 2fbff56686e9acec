"""`atoll.open`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from atoll.config.config import Config, RegionConfig, load_config
from atoll.config.file import DeploymentSection
from atoll.embedded.database import EmbeddedDatabase
from atoll.errors import ConfigError
from atoll.node.node import Node
from atoll.schema import Application, Collection, Limits, application_of


def open(
    deployment: str | os.PathLike[str] | Config | Application | Sequence[type[Collection]],
    *,
    region: str | None = None,
    data: str | os.PathLike[str] | None = None,
    listen: bool | None = None,
    node: int = 1,
) -> EmbeddedDatabase:
    """A region inside this process, for `async with`.

    `deployment` is a path to atoll.toml or a `Config`. Then `region` selects the region, and `node` one of its nodes.
    It replicates with the others and listens on its url. With `listen=False` it does not listen, and peers cannot pull
    from it. Otherwise `deployment` is an `Application` or a list of collections: one region on its own, in the folder
    `data`. Raises ConfigError, StoreLocked, StoreUnwritable.
    """
    application: Application | None = None
    if isinstance(deployment, str | os.PathLike):
        config = load_config(Path(deployment))
    elif isinstance(deployment, Config):
        config = deployment
    else:
        application = deployment if isinstance(deployment, Application) else application_of(*deployment)
        config = _alone(application, region or "local", data)
    name = region or (config.region_names[0] if len(config.regions) == 1 else None)
    if name is None:
        raise ConfigError(f"{config.source} has {', '.join(config.region_names)}: select one with region=")
    config.region(name)
    if listen is None:
        listen = len(config.regions) + len(config.witnesses) > 1
    listener = None
    if listen:
        from atoll.node.listening import Listener  # with the HTTP server, which takes 3 MB

        listener = Listener.bound(config, name, node)
    try:
        made = Node(config, name, application=application, number=node)
    except BaseException:
        if listener is not None:
            listener.close()
        raise
    if listener is not None:
        listener.app = made.app
    return EmbeddedDatabase(made, listener)


def _alone(application: Application, region: str, data: str | os.PathLike[str] | None) -> Config:
    if data is None:
        raise ConfigError("atoll.open of an application needs data=, the folder for its data")
    folder = Path(data).resolve()
    limits = next((schema.limits for schema in application.collections.values()), Limits())
    return Config(
        source=folder,
        deployment=DeploymentSection.model_construct(name=application.name, app=""),
        app=folder,
        data=folder,
        limits=limits,
        regions=(RegionConfig(region, "http://127.0.0.1"),),
        emulated=False,
        round_trips_ms={},
    )
