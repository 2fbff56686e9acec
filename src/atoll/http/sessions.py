"""Session tokens on requests and responses."""

from __future__ import annotations

from collections.abc import Mapping

from atoll.causality import vector as vectors
from atoll.causality.floor import fold
from atoll.causality.token import TokenCodec
from atoll.http.exchange import Exchange
from atoll.region.region import Region

HEADER = b"atoll-session"


class Sessions:
    """A token says what its holder has seen: everything that the region had when it answered."""

    def __init__(self, region: Region, codec: TokenCodec) -> None:
        self._region = region
        self._codec = codec
        self._vector: dict[str, int] | None = None
        """The last one that was encoded. Comparing costs a tenth of encoding."""
        self._encoded = b""

    async def of(self, exchange: Exchange) -> dict[str, int] | None:
        """The vector of the request's token. Raises InvalidToken, and what the store raises."""
        text = exchange.header(HEADER)
        if text is None:
            return None
        vector = self._codec.decode(text)
        if vectors.descends(self._region.vector, vector):
            return vector
        self._region.check_token(vector)
        own = self._region.origin
        if vector.get(own, 0) > self._region.vector.get(own, 0):
            self._region.check_whole()  # a region that is being restored has forgotten what it issued
            here = await self._region.refresh()  # another node of this region may have issued it
            self._codec.decode(text, {own: here.get(own, 0)})
        return vector

    def decode(self, text: str) -> dict[str, int]:
        return self._codec.decode(text)

    def encode(self, vector: Mapping[str, int]) -> str:
        return self._codec.encode(fold(vector, self._region.vector))

    def after(self, vector: Mapping[str, int], token: Mapping[str, int] | None) -> bytes:
        """The token to answer with. It covers what the session has seen before."""
        if token is not None and not vectors.descends(vector, token):
            return self.encode(vectors.merge(vector, token)).encode()
        if vector != self._vector:
            self._encoded = self.encode(vector).encode()
            self._vector = dict(vector)
        return self._encoded
