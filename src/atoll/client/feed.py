"""The change feed from start to end: which region to read it from, and where to go on after a break. No I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import urlencode

import msgspec

from atoll.client.answers import not_atoll, problem_of
from atoll.client.events import EventParser
from atoll.client.exchange import Exchanges
from atoll.client.results import Change
from atoll.client.transport import Request, Response
from atoll.errors import (
    AtollError,
    ConfigError,
    CursorExpired,
    Indefinite,
    RegionUnreachable,
    Unavailable,
)
from atoll.schema import Collection
from atoll.schema.models import schema_of

_decode = msgspec.json.Decoder(Change).decode


class Feed:
    """One consumer's place in the feed. A cursor holds in every region, so a break may be mended anywhere."""

    def __init__(
        self,
        exchanges: Exchanges,
        cursor: str | None,
        only: Sequence[type[Collection]],
        *,
        progress: bool = False,
    ) -> None:
        """`progress`: a cursor that moved on without a change is returned too, as a change of nothing."""
        self._exchanges = exchanges
        self._cursor = cursor
        self._progress = progress
        self._collections = [schema_of(model).name for model in only]
        self._parser = EventParser(exchanges.options.response_bytes)
        self._region = ""
        self._tried: set[str] = set()
        self._failures: dict[str, str] = {}
        self._expired: CursorExpired | None = None
        self._rounds = 0
        self._served_s = exchanges.clock()

    def request(self) -> Request:
        """Opens the stream where the last one ended, in the first region of this round that is left."""
        order = self._exchanges.router.order()
        self._region = next((region for region in order if region not in self._tried), order[0])
        self._tried.add(self._region)
        self._cursor = self._parser.last_id or self._cursor
        self._parser = EventParser(self._exchanges.options.response_bytes)
        query = [("collection", name) for name in self._collections]
        headers = {**self._exchanges.options.headers, "accept": "text/event-stream"}
        if self._cursor is not None:
            query.append(("cursor", self._cursor))
        silence_s = self._exchanges.options.feed_silence_s
        return Request(self._region, "GET", "/v1/changes", urlencode(query), headers, b"", silence_s)

    def opened(self, headers: Mapping[str, str]) -> None:
        """The region streams."""
        if not (headers.get("content-type") or "").startswith("text/event-stream"):
            self.failed(ConfigError("what answers there is no Atoll server: it sends no event stream"))

    def received(self, chunk: bytes) -> list[Change]:
        """The changes that a piece of the stream completes. Raises TooLarge, ConfigError.

        All of them must have been consumed before the next call, of whatever method.
        """
        self._served_s = self._exchanges.clock()
        self._tried.clear()
        self._failures.clear()
        self._expired = None
        self._rounds = 0
        before = self._parser.last_id
        changes = [_change(event.data) for event in self._parser.feed(chunk) if event.kind == "change"]
        cursor = self._parser.last_id
        if self._progress and cursor not in (changes[-1].cursor if changes else before, self._cursor):
            changes.append(Change(cursor, "", 0, 0, ()))
        return changes

    def refused(self, response: Response) -> None:
        """The region answered with an error. Raises it, unless another region may do better."""
        self.failed(problem_of(response))

    def failed(self, error: AtollError) -> None:
        """The stream could not be opened, or broke. Raises what no other region could mend."""
        if isinstance(error, ConfigError):
            raise ConfigError(f"{self._exchanges.where(self._region)}: {error.message}") from None
        if not self._failures and self._expired is None:
            # Counted from here: the consumer may have taken its time over what came last.
            self._served_s = self._exchanges.clock()
        if isinstance(error, CursorExpired):  # another region's journal may begin earlier
            self._expired = error
            return
        if not isinstance(error, Unavailable | Indefinite):
            raise error
        self._failures[self._region] = error.message
        self._tried.add(self._region)
        if isinstance(error, Unavailable):
            # A stream that breaks or falls silent says nothing of calls: something in between may hold it back.
            self._exchanges.router.failed(self._region, self._exchanges.clock())

    def pause_s(self) -> float:
        """How long to wait before the next request.

        Raises RegionUnreachable when that has gone on too long, and CursorExpired once no region is left to ask.
        """
        left = set(self._exchanges.router.order()) - self._tried
        if left and (self._failures or self._expired) and self._rounds == 0:
            return 0.0
        if not left:
            if self._expired is not None:
                raise self._expired
            self._tried.clear()
        self._rounds += 1
        if self._exchanges.clock() - self._served_s > self._exchanges.options.feed_timeout_s:
            told = "; ".join(f"{region}: {message}" for region, message in self._failures.items())
            raise RegionUnreachable(
                f"no region serves the change feed ({told}); continue later with cursor={self._cursor!r}",
                cursor=self._cursor,
            )
        return self._exchanges.jitter_s(self._rounds)


def _change(data: bytes) -> Change:
    try:
        return _decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        not_atoll(Response(200, {"content-type": "text/event-stream"}, data), str(error))
