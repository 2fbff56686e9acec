"""`atoll.toml`: where a deployment's regions are, read and checked into one frozen `Config`."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

from pydantic import ValidationError

from atoll.config.file import ConfigFile, DeploymentSection, EmulateSection, RegionSection, advice
from atoll.config.lines import line_of, line_of_syntax_error
from atoll.errors import ConfigError
from atoll.schema.bounds import INDEXED_KEY_BYTES, bounds_of
from atoll.schema.limits import Limits
from atoll.schema.placement import REGION_NAME
from atoll.schema.problems import meant
from atoll.store.postgresql.url import database_url, is_postgresql

_URL = re.compile(r"(?i)https?://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:(?P<port>[0-9]{1,5}))?/?")
"""Of a region: a host as `Host` holds it."""
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True, slots=True)
class RegionConfig:
    """Where one region is: `[regions.<name>]`."""

    name: str
    url: str
    """Where clients and peers reach it, without a trailing slash: its node, or what stands before several."""
    location: tuple[float, float] | None = None
    """Latitude and longitude in degrees; None when not given."""
    store: str = field(default="sqlite", repr=False)
    """`sqlite`, or the URL of a PostgreSQL database, which may hold a password."""
    number: int | None = None
    """For snowflake identifiers; given for every region, or for none."""
    nodes: tuple[str, ...] = ()
    """The url of each node, where there are several."""
    witness: bool = False
    """Whether it votes, and holds no documents."""

    @property
    def urls(self) -> tuple[str, ...]:
        """Where clients and peers may reach it, the one to try first in front."""
        return tuple(dict.fromkeys((self.url, *self.nodes)))

    def address(self, node: int = 1) -> tuple[str, int]:
        """Host and port where the node listens, the first one being 1. Raises ConfigError when there is none."""
        listening = self.nodes or (self.url,)
        if not 1 <= node <= len(listening):
            raise ConfigError(
                f"region {self.name} has {len(listening)} node{'s' * (len(listening) > 1)}, and node {node} is not"
                f" one of them; add its url to `nodes` under [regions.{self.name}]"
            )
        return address_of(listening[node - 1])


@dataclass(frozen=True, slots=True)
class Config:
    """A deployment. Made by `load_config`; relative paths in the file are resolved against its folder."""

    source: Path
    deployment: DeploymentSection
    """As the file has it: its key may lie elsewhere, where `deployment_key` finds it."""
    app: Path
    """The file that declares the collections."""
    data: Path
    """Holds a folder per region."""
    limits: Limits
    regions: tuple[RegionConfig, ...]
    """Those that hold documents, sorted by name."""
    emulated: bool
    """A test topology: `[emulate]` is there, so partitions and delays may be asked for."""
    round_trips_ms: Mapping[tuple[str, str], float]
    """Emulated, by pair of region names in sorted order."""
    clock_offsets_ms: Mapping[str, int] = field(default_factory=dict)
    """Emulated, by region: how far its clock runs ahead of this machine's."""
    witnesses: tuple[RegionConfig, ...] = ()
    """Regions that vote, and hold no documents. Sorted by name."""

    @property
    def name(self) -> str:
        return self.deployment.name

    @property
    def region_names(self) -> tuple[str, ...]:
        return tuple(region.name for region in self.regions)

    @property
    def witness_names(self) -> tuple[str, ...]:
        return tuple(region.name for region in self.witnesses)

    def region(self, name: str) -> RegionConfig:
        """One that holds documents. Raises ConfigError, naming what may have been meant."""
        found = self.member(name)
        if found.witness:
            raise ConfigError(
                f"{self.source}: {name} is a witness, and holds no documents; name one of"
                f" {', '.join(self.region_names)}"
            )
        return found

    def member(self, name: str) -> RegionConfig:
        """A region or a witness. Raises ConfigError, naming what may have been meant."""
        for region in (*self.regions, *self.witnesses):
            if region.name == name:
                return region
        raise ConfigError(f"{self.source}: no region is called {name!r}; {meant(name, self.region_names)}")

    def region_data(self, name: str) -> Path:
        """The folder of the region's embedded store, not made here. Raises ConfigError as `region` does."""
        return self.data / self.member(name).name

    def region_store(self, name: str) -> str:
        """Where the region's data lies, for people: a folder, or a URL without its password."""
        store = self.member(name).store
        return database_url(store).shown if is_postgresql(store) else str(self.region_data(name))

    def rtt_ms(self, one: str, other: str) -> float:
        """The emulated round trip between two regions in milliseconds; 0 when none was given."""
        return self.round_trips_ms.get((min(one, other), max(one, other)), 0.0)

    def clock_offset_ms(self, name: str) -> int:
        """How far the region's clock is made to run ahead, in milliseconds; 0 when nothing was said."""
        return self.clock_offsets_ms.get(name, 0)


def address_of(url: str) -> tuple[str, int]:
    """Host and port."""
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


def check_name(region: object) -> None:
    """Raises ConfigError for what cannot be a region's name."""
    if not isinstance(region, str) or not REGION_NAME.fullmatch(region):
        raise ConfigError(
            f"{region!r} cannot be a region's name; use at most 32 small letters, digits, - and _,"
            " starting with a letter"
        )


def base_url(url: str) -> str:
    """The url of a region, without a slash at the end. Raises ConfigError, which says what is wrong with it."""
    found = _URL.fullmatch(url := str(url))
    if found and 0 < int(found["port"] or 80) < 65_536:
        return found[0].removesuffix("/").lower()
    if not found and re.match("https?://[^/?#]+[@/?#]", url, re.IGNORECASE):
        raise ConfigError(f"{url!r} has more than scheme, host and port; drop the rest")
    name = re.match("https?://([^:/?#@]+)", url, re.IGNORECASE)
    if name and not name[1].isascii():
        with suppress(UnicodeError):
            spelt = name[1].encode("idna").decode()
            raise ConfigError(f"{url!r} has a name that no request carries; write it as {spelt}")
    advice = "give one such as http://127.0.0.1:8401, its port from 1 to 65535"
    raise ConfigError(f"{url!r} is no URL of a region; {advice}")


def load_config(path: Path) -> Config:
    """Read `atoll.toml`. Makes and contacts nothing. Raises ConfigError naming file, line and the fix."""
    path = path.resolve()
    try:
        text = path.read_text("utf-8-sig")  # editors on Windows begin a file with a mark of its encoding
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text in UTF-8"
        raise ConfigError(
            f"{path}: cannot be read: {reason}; `atoll init` writes one to start from"
        ) from error
    return _Reader(path, text).read()


class _Reader:
    """One file, and the way from its parts to their lines."""

    def __init__(self, path: Path, text: str) -> None:
        self.path = path
        self.text = text

    def read(self) -> Config:
        file = self._parsed()
        members = tuple(self._region(name, file.regions[name]) for name in sorted(file.regions))
        self._check_distinct(members)
        witnesses = tuple(member for member in members if member.witness)
        regions = tuple(member for member in members if not member.witness)
        if witnesses and len(witnesses) >= len(regions):
            self._refuse(
                ("regions", witnesses[-1].name, "witness"),
                f"makes {len(witnesses)} witnesses beside {len(regions)} regions that hold documents: a majority"
                " could be without any; have fewer witnesses than regions",
            )
        deployment = file.deployment
        limits = Limits(**deployment.limits.model_dump())
        self._check_sizes(limits, regions)
        folder = self.path.parent
        return Config(
            source=self.path,
            deployment=deployment,
            app=(folder / deployment.app).resolve(),
            data=(folder / deployment.data).resolve(),
            limits=limits,
            regions=regions,
            emulated=file.emulate is not None,
            round_trips_ms=self._round_trips(file.emulate, tuple(sorted(file.regions))),
            clock_offsets_ms=self._clock_offsets(file.emulate, tuple(sorted(file.regions))),
            witnesses=witnesses,
        )

    def _check_sizes(self, limits: Limits, regions: tuple[RegionConfig, ...]) -> None:
        where = ("deployment", "limits")
        with self._refusing((*where, "document_bytes")):
            bounds_of(limits.document_bytes, len(regions))
        if limits.key_bytes > INDEXED_KEY_BYTES and any(is_postgresql(region.store) for region in regions):
            self._refuse(
                (*where, "key_bytes"),
                f"is {limits.key_bytes}, and an index of PostgreSQL holds at most {INDEXED_KEY_BYTES}",
            )

    def _refuse(self, where: tuple[str, ...], problem: str) -> NoReturn:
        line = line_of(self.text, where)
        raise ConfigError(f"{self.path}:{line}: {'.'.join(where)}: {problem}", file=str(self.path), line=line)

    @contextmanager
    def _refusing(self, where: tuple[str, ...]) -> Generator[None]:
        """Say of a ConfigError where in the file its cause stands."""
        try:
            yield
        except ConfigError as error:
            self._refuse(where, error.message)

    def _parsed(self) -> ConfigFile:
        try:
            return ConfigFile.model_validate(tomllib.loads(self.text))
        except tomllib.TOMLDecodeError as error:
            line = line_of_syntax_error(error, self.text)
            raise ConfigError(
                f"{self.path}:{line}: not valid TOML: {error}; strings need quotes, tables [brackets]",
                file=str(self.path),
                line=line,
            ) from error
        except ValidationError as error:
            # An unknown key is often the misspelling of one that is missing: it says more.
            found = sorted(
                error.errors(include_url=False), key=lambda item: item["type"] != "extra_forbidden"
            )[0]
            where = tuple(str(part) for part in found["loc"])
            self._refuse(where, advice(where, found["type"], found["msg"]))

    def _region(self, name: str, region: RegionSection) -> RegionConfig:
        where = ("regions", name)
        with self._refusing(where):
            check_name(name)
        self._check_store((*where, "store"), region.store)
        location = None
        if region.location is not None:
            location = (region.location[0], region.location[1])
            if not (-90 <= location[0] <= 90 and -180 <= location[1] <= 180):
                self._refuse((*where, "location"), "is not on Earth; give [latitude, longitude] in degrees")
        nodes = tuple(self._url((*where, "nodes"), url) for url in region.nodes or ())
        if region.url is None and not nodes:
            self._refuse(where, advice((*where, "url"), "missing", ""))
        if len(nodes) > 1 and not is_postgresql(region.store):
            self._refuse(
                (*where, "nodes"), "several nodes share one database, so store has to be a URL of PostgreSQL"
            )
        if region.witness and len(nodes) > 1:
            self._refuse((*where, "nodes"), "a witness has one node")
        if region.witness and region.number is not None:
            self._refuse((*where, "number"), "a witness makes no identifiers; leave its number out")
        url = nodes[0] if region.url is None else self._url((*where, "url"), region.url)
        return RegionConfig(name, url, location, region.store, region.number, nodes, region.witness)

    def _check_store(self, where: tuple[str, ...], store: str) -> None:
        if is_postgresql(store):
            with self._refusing(where):
                database_url(store)
        elif store != "sqlite":
            # Not shown: it may be the URL of something else, with a password in it.
            self._refuse(where, 'is no store; use "sqlite", or a URL such as postgresql://role@host/database')

    def _url(self, where: tuple[str, ...], url: str) -> str:
        with self._refusing(where):
            return base_url(url)

    def _check_distinct(self, regions: tuple[RegionConfig, ...]) -> None:
        addresses: dict[tuple[str, int], str] = {}
        numbers: dict[int, str] = {}
        schemas: dict[tuple[str, str], str] = {}
        for region in regions:
            if is_postgresql(region.store):
                database = database_url(region.store)
                schema = database.schema_for(region.name)
                owner = schemas.setdefault((database.shown.rpartition("@")[2], schema), region.name)
                if owner != region.name:
                    self._refuse(
                        ("regions", region.name, "store"),
                        f"is {owner}'s schema {schema} too; give each its own",
                    )
            where = ("regions", region.name)
            for url in region.urls:
                host, port = address_of(url)
                owner = addresses.setdefault(("loopback" if host in _LOOPBACK else host, port), region.name)
                if owner != region.name:
                    key = "url" if url == region.url else "nodes"
                    self._refuse((*where, key), f"{url} is {owner}'s address too; give each its own")
            if len(set(region.nodes)) < len(region.nodes):
                self._refuse((*where, "nodes"), "names one url twice; give each node its own")
            if region.number is not None:
                owner = numbers.setdefault(region.number, region.name)
                if owner != region.name:
                    self._refuse(
                        (*where, "number"),
                        f"{region.number} is {owner}'s number too, so their identifiers would collide;"
                        " give each its own",
                    )
        for region in regions:
            if numbers and region.number is None and not region.witness:
                numbered = next(iter(numbers.values()))
                self._refuse(
                    ("regions", region.name),
                    f"has no number, while {numbered} has one; give every region one, or none",
                )

    def _round_trips(
        self, emulate: EmulateSection | None, regions: tuple[str, ...]
    ) -> dict[tuple[str, str], float]:
        found: dict[tuple[str, str], float] = {}
        for pair, milliseconds in (emulate.rtt_ms if emulate else {}).items():
            where = ("emulate", "rtt_ms", pair)
            one, other = self._pair(where, pair, regions)
            if (one, other) in found:
                self._refuse(where, f"the round trip between {one} and {other} is given twice; keep one")
            found[one, other] = milliseconds
        return found

    def _clock_offsets(self, emulate: EmulateSection | None, regions: tuple[str, ...]) -> dict[str, int]:
        offsets = emulate.clock_offset_ms if emulate else {}
        for name in offsets:
            if name not in regions:
                self._refuse(("emulate", "clock_offset_ms", name), f"names no region; {meant(name, regions)}")
        return dict(offsets)

    def _pair(self, where: tuple[str, ...], pair: str, regions: tuple[str, ...]) -> tuple[str, str]:
        """The two regions, sorted. A name may hold `-`, so every split is tried; it never holds `/`."""
        marks = "/" if "/" in pair else "-"
        splits = [(pair[:at], pair[at + 1 :]) for at, mark in enumerate(pair) if mark == marks]
        known = [(one, other) for one, other in splits if one in regions and other in regions]
        if len(known) > 1:
            readings = " or ".join(f'"{one}/{other}"' for one, other in known)
            self._refuse(where, f"could be several pairs of regions; write {readings}")
        if not known:
            candidates = [f"{one}-{other}" for one in regions for other in regions if one != other]
            self._refuse(where, f"names no pair of regions; {meant(pair, candidates or regions)}")
        one, other = sorted(known[0])
        if one == other:
            self._refuse(where, "a region has no round trip to itself; drop it")
        return one, other
