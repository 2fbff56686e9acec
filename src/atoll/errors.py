"""Every error that Atoll raises, in one tree.

Every class states its HTTP `status` and a stable `type` slug. `http.problems` turns them into an RFC 9457 document, and
the clients turn that back into the same class. `details` hold plain JSON values. An error is *definite* (nothing
happened) unless it is `Indefinite`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, ClassVar, NamedTuple


class AtollError(Exception):
    """The base of the tree. `message` says what was wrong, where, and what to do."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "internal"
    definite: ClassVar[bool] = True

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details = details


class DeclarationError(AtollError):
    """A collection's declaration contradicts itself."""

    status, type = 500, "declaration"


class ConfigError(AtollError):
    """The file atoll.toml is wrong. The message names file, line and fix."""

    status, type = 500, "configuration"


class InvalidHistory(AtollError):
    """A recorded history contradicts itself, or holds what its checker does not know."""

    status, type = 500, "invalid-history"


class RequestError(AtollError):
    """The caller's input is wrong: nothing happened."""

    status, type = 400, "bad-request"


class UnknownCollection(RequestError):
    status, type = 404, "unknown-collection"


class UnknownSaga(RequestError):
    status, type = 404, "unknown-saga"


class UnknownField(RequestError):
    status, type = 422, "unknown-field"


class InvalidDocument(RequestError):
    status, type = 422, "invalid-document"


class InvalidKey(RequestError):
    status, type = 400, "invalid-key"


class InvalidOperation(RequestError):
    status, type = 422, "invalid-operation"


class IdempotencyKeyReused(InvalidOperation):
    """The key was used for another write."""

    status, type = 422, "idempotency-key-reused"


class MalformedRequest(RequestError):
    status, type = 400, "malformed-request"


class ForeignOrigin(RequestError):
    """A web page of another site sent the request."""

    status, type = 403, "foreign-origin"


class Misdirected(RequestError):
    """The request names another host."""

    status, type = 421, "misdirected"


class MethodNotAllowed(RequestError):
    """`details`: `allow`, the methods that the path takes."""

    status, type = 405, "method-not-allowed"


class NotAcceptable(RequestError):
    """`Accept` excludes what the call answers with."""

    status, type = 406, "not-acceptable"


class ExpectationFailed(RequestError):
    """`Expect` names something other than 100-continue."""

    status, type = 417, "expectation-failed"


class UnsupportedMediaType(RequestError):
    status, type = 415, "unsupported-media-type"


class RequestTimeout(RequestError):
    """The request did not arrive in time."""

    status, type = 408, "request-timeout"


class HeadTooLarge(RequestError):
    """Path, query and headers together."""

    status, type = 431, "head-too-large"


class TooLarge(RequestError):
    status, type = 413, "too-large"


class InvalidToken(RequestError):
    status, type = 400, "invalid-token"


class InvalidCursor(RequestError):
    status, type = 400, "invalid-cursor"


class CursorExpired(RequestError):
    """The journal no longer holds the next changes."""

    status, type = 410, "cursor-expired"

    @property
    def gone(self) -> Mapping[str, int]:
        """origin → the first of its entries that is missing."""
        found = self.details.get("gone")
        return found if isinstance(found, dict) else {}


class NotFound(RequestError):
    status, type = 404, "not-found"


class Conflict(RequestError):
    status, type = 409, "conflict"


class VersionMismatch(Conflict):
    """If-Match names another version."""

    status, type = 412, "version-mismatch"


class Shortage(NamedTuple):
    """What a bounded counter lacks, in units of the counter."""

    collection: str
    key: str
    field: str
    wanted: int
    left_here: int
    left_in_all: int


class BoundExceeded(Conflict):
    """A bounded counter has not enough left."""

    status, type = 409, "bound-exceeded"

    @property
    def shortage(self) -> Shortage | None:
        """None where the error names no field."""
        try:
            return Shortage(**{name: self.details[name] for name in Shortage._fields})
        except KeyError:
            return None


class UniqueViolation(Conflict):
    """Another document has the value of a unique field.

    `details`: `collection`, `key`, `field`, `value`, and `holder`, the key of the other document.
    """

    status, type = 409, "unique-violation"


class ReferenceViolation(Conflict):
    """A document would refer to one that does not exist, or one is deleted that another one refers to.

    `details`: `collection`, `key` and `field` of the document that refers, `target_collection` and `target`, what it
    refers to.
    """

    status, type = 409, "reference-violation"


class OwnershipFixed(Conflict):
    """A document cannot change its home region this way."""

    status, type = 409, "ownership-fixed"


class ReplicationError(AtollError):
    """What a peer sent is refused: nothing was applied."""

    status, type = 400, "replication"


class CorruptEntry(ReplicationError):
    status, type = 400, "corrupt-entry"


class HostileEntry(ReplicationError):
    status, type = 400, "hostile-entry"


class RegionLeft(ReplicationError):
    """The region that asks was taken out of the deployment."""

    status, type = 400, "region-left"


class ClockAhead(ReplicationError):
    status, type = 400, "clock-ahead"


class ProtocolMismatch(ReplicationError):
    status, type = 400, "protocol-mismatch"


class StoreError(AtollError):
    status, type = 500, "store"


class StoreLocked(StoreError):
    """Another process holds this region's database."""

    status, type = 500, "store-locked"


class StoreUnwritable(StoreError):
    """The disk is full or read-only. Writes stop, reads continue."""

    status, type = 507, "store-unwritable"


class StoreCorrupt(StoreError):
    status, type = 500, "store-corrupt"


class Unavailable(AtollError):
    """The caller may try again, here or elsewhere."""

    status, type = 503, "unavailable"


class ClaimsChanged(Unavailable):
    """The values of a document's unique fields are others than was assumed. Nothing was done."""

    status, type = 503, "claims-changed"


class ReferencesChanged(Unavailable):
    """Others change what refers to a document, or what it refers to, all the time. Nothing was done."""

    status, type = 503, "references-changed"


class RegionUnreachable(Unavailable):
    """The region that must execute this does not answer."""

    status, type = 503, "region-unreachable"


class TokenNotReached(Unavailable):
    """This region has not yet seen what the session has."""

    status, type = 503, "token-not-reached"


class TooStale(Unavailable):
    """The bound on staleness cannot be met here."""

    status, type = 503, "too-stale"


class Overloaded(Unavailable):
    """A queue is at its bound."""

    status, type = 503, "overloaded"


class StoreUnreachable(Unavailable):
    """This region's database does not answer."""

    status, type = 503, "store-unreachable"


class SerializationConflict(Unavailable):
    """Another node of this region committed first."""

    status, type = 503, "serialization-conflict"


class FenceLost(SerializationConflict):
    """A node lease that the commit depends on has another holder."""

    status, type = 503, "fence-lost"


class ClockUnsafe(Unavailable):
    """This node's clock is out of bounds."""

    status, type = 503, "clock-unsafe"


class Indefinite(AtollError):
    """The write may have happened. The same idempotency key makes a repetition count once."""

    status, type = 504, "indefinite"
    definite = False

    @property
    def gateway_status(self) -> int | None:
        """The HTTP status of a gateway that answered instead of the region."""
        found = self.details.get("gateway_status")
        return found if isinstance(found, int) else None


class OrderUncertain(Indefinite):
    """The write is durable; later ones may still be stamped before it. The same idempotency key waits for the rest."""

    status, type = 504, "order-uncertain"

    @property
    def vector(self) -> Mapping[str, int]:
        """What a session has seen that knows of the write."""
        found = self.details.get("vector")
        return found if isinstance(found, dict) else {}


@cache
def error_classes() -> dict[str, type[AtollError]]:
    """Map every `type` slug to its class, for the clients that rebuild errors from problem documents."""
    found: dict[str, type[AtollError]] = {}
    stack: list[type[AtollError]] = [AtollError]
    while stack:
        cls = stack.pop()
        found[cls.type] = cls
        stack.extend(cls.__subclasses__())
    return found
