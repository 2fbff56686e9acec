"""What a session remembers between calls."""

from __future__ import annotations

from collections.abc import Mapping


class SessionState:
    """The newest token that a region returned, and which region that was.

    A token cannot be compared with another by the client, so a session's calls must follow one another.
    """

    __slots__ = ("degraded", "region", "token")

    def __init__(self, token: str | None = None) -> None:
        self.token = token
        self.region: str | None = None
        self.degraded: str | None = None

    def answered(self, region: str, headers: Mapping[str, str]) -> None:
        """Note what an answer says; `region` was asked, another one may have answered."""
        self.token = headers.get("atoll-session") or self.token
        self.region = headers.get("atoll-region") or region
        self.degraded = headers.get("atoll-degraded")
