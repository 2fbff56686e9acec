"""Requests of web pages: which `Host` and `Origin` are served (RFC 9110 section 7.2, RFC 6454, Fetch standard).

A page of any site can make a visitor's browser send requests to a region that the browser reaches. The browser
names the page's origin with them. A page may let its own name lead to the region's address (DNS
rebinding). To the browser it then has the region's origin, but `Host` is the page's name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from ipaddress import ip_address
from urllib.parse import urlsplit

from atoll.errors import ForeignOrigin, MalformedRequest, Misdirected

ANY = "*"
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::[0-9]{0,5})?")
_OWN_SITES = (b"none", b"same-origin")
"""`same-site` is another port, or another name of the same domain: another origin."""

Headers = Mapping[bytes, bytes]


class Guard:
    """Of one region; holds no state."""

    def __init__(self, urls: Iterable[str], hosts: Iterable[str] = (), origins: Iterable[str] = ()) -> None:
        """`urls` are the region's own. `hosts` and `origins` are served besides; `*` stands for all."""
        parts = [urlsplit(url) for url in urls]
        self.own = frozenset(each.netloc.lower().encode() for each in parts)
        """Values of `Host` that need no further look."""
        self._own_origins = frozenset(f"{each.scheme}://{each.netloc}".lower() for each in parts)
        names = ("localhost", *hosts, *(each.hostname or "" for each in parts))
        self._hosts = frozenset(name.rstrip(".") for name in names)
        self._origins = frozenset(map(_as_sent, origins))

    def check_host(self, host: bytes) -> None:
        """An address cannot be another site's name, so it is served. Raises MalformedRequest, Misdirected."""
        text = host.decode("latin-1").lower()
        found = _HOST.fullmatch(text)
        if found is None:
            raise MalformedRequest(f"the header host is no name or address: {text[:64]!r}")
        name = found[1].rstrip(".")
        if ANY in self._hosts or name in self._hosts or name.endswith(".localhost") or _is_address(name):
            return
        raise Misdirected(
            f"this region is not {name[:64]!r}; use its url, or add the name to allowed_hosts in atoll.toml"
        )

    def check_origin(self, headers: Headers, method: str) -> bool:
        """Whether the page is another site's that is allowed; False for the region's own. Raises ForeignOrigin."""
        raw = headers.get(b"origin")
        if raw is None:  # as for an image, a script or a link, or from an old browser
            followed = method in ("GET", "HEAD") and headers.get(b"sec-fetch-mode") == b"navigate"
            if headers.get(b"sec-fetch-site", b"none").lower() not in _OWN_SITES and not followed:
                raise ForeignOrigin("a page of another site requests this; see allowed_origins in atoll.toml")
            return False
        origin = raw.decode("latin-1").lower()
        asked = origin.partition("://")[2].encode("latin-1")
        if origin in self._own_origins or asked == headers.get(b"host"):
            return False
        if ANY in self._origins or origin in self._origins:
            return True
        raise ForeignOrigin(
            f"pages of {origin[:100]!r} may not ask this region; add it to allowed_origins in atoll.toml"
        )


def _as_sent(origin: str) -> str:
    """As browsers spell it: without the port that its scheme implies."""
    for scheme, port in (("http://", ":80"), ("https://", ":443")):
        if origin.startswith(scheme):
            return origin.removesuffix(port)
    return origin


def _is_address(name: str) -> bool:
    try:
        ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
