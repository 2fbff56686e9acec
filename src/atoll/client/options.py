"""What can be chosen about a client."""

from __future__ import annotations

import math
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace

from atoll.errors import ConfigError
from atoll.schema.bounds import RESPONSE_BYTES, bounds_of
from atoll.schema.limits import Limits


@dataclass(frozen=True, slots=True)
class ClientOptions:
    """Bounds and intervals; the defaults fit regions on different continents."""

    timeout_s: float = 15.0
    """A call ends after this, with all its attempts; a read's `max_wait_s` extends it."""
    read_timeout_s: float = 3.0
    """One attempt to read. Less than what a region may wait for a token (1 s) makes clients leave too early."""
    write_timeout_s: float = 6.0
    """One attempt to write. Less than a region's own 5 s for its peers turns clear errors into indefinite ones."""
    connect_timeout_s: float = 1.0
    """Reaching a region at all; then the next one is tried."""
    backoff_s: float = 0.05
    """The longest pause after the first round of attempts; it doubles with every round."""
    backoff_max_s: float = 2.0
    """The longest pause between two rounds."""
    suspend_s: float = 0.5
    """A region that failed is left alone for about this long, then its health is asked; it doubles each time."""
    suspend_max_s: float = 15.0
    """The longest time between two questions for a region's health."""
    health_interval_s: float = 5.0
    """How often the health of the region in use is asked, so that a region being drained is left in time."""
    health_timeout_s: float = 0.5
    """A region that takes longer to say how it is counts as down. It must exceed the round trip to the furthest."""
    response_bytes: int = RESPONSE_BYTES
    """The largest answer that is read into memory, and the largest event of the change feed. The default grows with
    the document_bytes of atoll.toml; a smaller one is kept, and refuses what is larger."""
    connections: int = 100
    """The most requests under way at once; further calls wait, and their attempts are timed from then on.
    The synchronous client has as many as threads ask for, and keeps this many connections per region."""
    multiplex_beyond: int = 4
    """While so many calls to one region are under way, further ones are sent together; with 1,000,000 never."""
    feed_silence_s: float = 30.0
    """A change feed that brings nothing, not even a sign of life, is opened anew. A region sends one each 10 s."""
    feed_timeout_s: float = 60.0
    """A change feed that no region serves raises RegionUnreachable after this."""
    tls: ssl.SSLContext | None = None
    """For https:// regions with a private authority; None trusts the system's."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Sent with every request, for gateways that ask for some. Names in lower case."""

    def __post_init__(self) -> None:
        for option in fields(self):
            value = getattr(self, option.name)
            if option.name in ("tls", "headers"):
                continue
            if option.name in ("connections", "multiplex_beyond", "response_bytes") and not isinstance(
                value, int
            ):
                raise ConfigError(f"ClientOptions.{option.name} takes a whole number, not {value!r}")
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ConfigError(f"ClientOptions.{option.name} takes a number, not {value!r}")
            if not 0 < value < math.inf:
                raise ConfigError(f"ClientOptions.{option.name} must be above 0 and finite, not {value!r}")


DEFAULTS = ClientOptions()


def fitted(options: ClientOptions, limits: Limits | None, regions: int) -> ClientOptions:
    """With room for every answer that a deployment may give. Raises ConfigError."""
    wanted = RESPONSE_BYTES if limits is None else bounds_of(limits.document_bytes, regions).answer_bytes
    if RESPONSE_BYTES <= options.response_bytes < wanted:
        return replace(options, response_bytes=wanted)
    return options
