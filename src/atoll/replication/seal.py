"""How regions recognise each other's requests and replies: a keyed digest over what is said, by whom and when."""

from __future__ import annotations

import hmac
from hashlib import blake2b

from atoll.errors import HostileEntry

CALL_PATH = "/replication/call"
STREAM_PATH = "/replication/stream"
PROTOCOL_HEADER = "atoll-protocol"
"""The version of `replication.wire` that the asker speaks; 1 did not say it."""
HEADER = "atoll-seal"
_VALID_MS = 60_000


def sign(key: bytes, region: str, target: str, now_ms: int, body: bytes) -> str:
    """The value of HEADER for a request to `target` (a path)."""
    return f"{region}:{now_ms}:{_digest(key, region, target, now_ms, body)}"


def reply_target(asked: str, status: int) -> str:
    """What a reply is sealed for: the request's own seal, so that no other reply can stand in for it."""
    return f"{status} to {asked}"


def verify(key: bytes, seal: str, target: str, now_ms: int | None, body: bytes) -> str:
    """Return the name of the region that sealed it, at any time when `now_ms` is None. Raises HostileEntry."""
    region, _, rest = seal.partition(":")
    stamp, _, digest = rest.partition(":")
    if not stamp.isdecimal() or len(stamp) > 16 or not digest or not seal.isascii():
        raise HostileEntry(
            "a request between regions carries no seal; only regions of the deployment may send it"
        )
    if not hmac.compare_digest(digest.encode(), _digest(key, region, target, int(stamp), body).encode()):
        raise HostileEntry(
            "a request between regions carries a wrong seal; do both regions have the same key?"
        )
    if now_ms is not None and abs(now_ms - int(stamp)) > _VALID_MS:
        raise HostileEntry(
            f"the seal of {region!r} is {abs(now_ms - int(stamp)) // 1000} s off; compare the clocks"
        )
    return region


def _digest(key: bytes, region: str, target: str, now_ms: int, body: bytes) -> str:
    sealed = blake2b(f"{region}\n{target}\n{now_ms}\n".encode(), key=key, digest_size=16)
    sealed.update(body)
    return sealed.hexdigest()
