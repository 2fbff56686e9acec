"""Where regions are: what `connect` takes, as one form."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from atoll.config.config import Config, RegionConfig, base_url, check_name, load_config
from atoll.errors import ConfigError
from atoll.schema.problems import meant

Deployment = str | os.PathLike[str] | Config | Mapping[str, str] | Iterable[Mapping[str, str]]
"""A path to atoll.toml, what was read from it, or `{region: url}`, one or several."""

_EARTH_RADIUS_KM = 6371.0


def endpoints_of(deployment: Deployment) -> tuple[RegionConfig, ...]:
    """Every region of a deployment, in the order given. Raises ConfigError."""
    if isinstance(deployment, str | os.PathLike):
        deployment = load_config(Path(deployment))
    if isinstance(deployment, Config):
        return deployment.regions
    urls: dict[str, str] = {}
    for mapping in [deployment] if isinstance(deployment, Mapping) else deployment:
        urls.update(mapping)
    if not urls:
        raise ConfigError(
            'no region is given; pass a path to atoll.toml, or {"tokyo": "http://127.0.0.1:8401"}'
        )
    for region in urls:
        check_name(region)
    return tuple(RegionConfig(region, base_url(url)) for region, url in urls.items())


def nearest_first(endpoints: tuple[RegionConfig, ...], near: str | None) -> tuple[RegionConfig, ...]:
    """`near`, then the others by distance from it; where no location is known, in the order given.

    Raises ConfigError for a region that is not there.
    """
    if near is None:
        return endpoints
    names = [endpoint.name for endpoint in endpoints]
    if near not in names:
        raise ConfigError(f"near={near!r} is not a region of this deployment; {meant(near, names)}")
    home = endpoints[names.index(near)]
    return tuple(sorted(endpoints, key=lambda endpoint: (endpoint is not home, distance_km(home, endpoint))))


def distance_km(one: RegionConfig, other: RegionConfig) -> float:
    """Along the surface of the Earth (haversine formula); infinite where a location is not known."""
    if one.location is None or other.location is None:
        return math.inf
    (latitude, longitude), (latitude_2, longitude_2) = one.location, other.location
    phi, phi_2 = math.radians(latitude), math.radians(latitude_2)
    half = (
        math.sin((phi_2 - phi) / 2) ** 2
        + math.cos(phi) * math.cos(phi_2) * math.sin(math.radians(longitude_2 - longitude) / 2) ** 2
    )
    return 2 * _EARTH_RADIUS_KM * math.asin(math.sqrt(min(1.0, half)))
