"""The URL of a region's PostgreSQL database, as `store = "postgresql://…"` in atoll.toml says it."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from atoll.errors import ConfigError

SCHEMES = ("postgresql", "postgres")
_LONGEST_SCHEMA_BYTES = 63


@dataclass(frozen=True, slots=True)
class DatabaseUrl:
    """Never prints its password."""

    dsn: str = field(repr=False)
    """For the driver, with the password if there is one."""
    schema: str | None
    """From `?schema=`; None for the region's own."""
    shown: str
    """Without password: for people and logs."""
    hosts: tuple[str, ...] = field(repr=False, default=())
    """Of a URL that names several hosts, one for each of them."""

    def schema_for(self, region: str) -> str:
        return self.schema or f"atoll_{region.replace('-', '_')}"


def is_postgresql(store: str) -> bool:
    return store.partition("://")[0] in SCHEMES


def database_url(store: str) -> DatabaseUrl:
    """Raises ConfigError, whose message never holds the password."""
    try:
        parts = urlsplit(store)
        port = None if "," in parts.netloc else parts.port  # of several hosts the driver finds one that fits
    except ValueError:
        raise ConfigError(
            "the store is not a URL: write postgresql://role@host:5432/database,"
            " with special characters of a password percent-encoded"
        ) from None
    if not parts.path.strip("/") or "/" in parts.path.strip("/") or port == 0:
        raise ConfigError("the store's URL names no database: write postgresql://role@host:5432/database")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    schema = options.pop("schema", None)
    if schema is not None and not (
        schema
        and len(schema.encode()) <= _LONGEST_SCHEMA_BYTES
        and schema.isprintable()
        and '"' not in schema
        and not schema.startswith("pg_")
    ):
        raise ConfigError(
            f"schema={schema!r} in the store's URL is not a schema for Atoll: write ?schema=shop"
        )
    user, at, host = parts.netloc.rpartition("@")
    several = host.split(",")
    if len(several) > 1:
        # A standby is never meant: reads would lag behind what the region has acknowledged.
        options.setdefault("target_session_attrs", "primary")
    query = urlencode(options)
    name = f"{parts.username}@" if parts.username else ""
    return DatabaseUrl(
        urlunsplit(("postgresql", parts.netloc, parts.path, query, "")),
        schema,
        f"postgresql://{name}{host}{parts.path}",
        tuple(urlunsplit(("postgresql", f"{user}{at}{each}", parts.path, query, "")) for each in several),
    )
