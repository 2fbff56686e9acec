"""A saga under way, as its document holds it: all that another region needs to go on with it."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any, Final, Literal

import msgspec

Status = Literal["running", "waiting", "compensating", "stuck", "completed", "compensated"]
STATUSES: Final[tuple[Status, ...]] = (
    "running",
    "waiting",
    "compensating",
    "stuck",
    "completed",
    "compensated",
)
OVER: Final[frozenset[str]] = frozenset({"completed", "compensated"})
"""Nothing happens any more."""
UNDER_WAY: Final[tuple[Status, ...]] = ("running", "waiting", "compensating")
"""Something is to be done, by the region that runs it."""

Cause = Literal["", "failed", "refused", "too-late", "changed", "unknown", "aborted"]
"""Why the saga went back, or is stuck."""
Outcome = Literal["done", "undone", "skipped"]


class Record(msgspec.Struct, frozen=True, omit_defaults=True):
    """A step that was done, or undone."""

    step: str
    outcome: Outcome
    at_ms: int
    region: str
    """Which region did it."""
    attempts: int = 1
    error: str = ""
    """Of the last attempt that failed."""


class Instance(msgspec.Struct, frozen=True, kw_only=True):
    """Its members are the fields of the system collection `_sagas`, in the same order."""

    saga: str
    """The name of its declaration."""
    id: str
    """Tells it from others of that name."""
    home: str
    """The region in which it was started. It runs the saga, unless another one has taken over."""
    status: Status
    step: str
    """What is done next, or undone; empty when it is over."""
    at: int
    """The number of that step."""
    backwards: bool = False
    """Whether it undoes what it has done."""
    attempts: int = 0
    """Of that step, that have failed."""
    wake_ms: int = 0
    """Nothing is done before (unix milliseconds)."""
    since_ms: int
    """Since when it has this status."""
    started_ms: int
    before: Status | Literal[""] = ""
    """Of a saga that is stuck: its status before."""
    cause: Cause = ""
    error: str = ""
    """Of the last attempt that failed."""
    fields: dict[str, Any]
    """What it knows: the fields of its class."""
    plan: tuple[str, ...]
    """The signatures of its steps, as they were declared when it was written last."""
    done: tuple[Record, ...] = ()
    signals: dict[str, Any] = {}
    """Those that have come, and were not used."""
    heard: tuple[str, ...] = ()
    """Idempotency keys of the latest commands."""
    given: str
    """Names what it was started with."""
    nonce: str
    """Tells it from an earlier saga with the same name and id."""
    region: str
    """Which region has written it last."""
    epoch: int = 0
    """Of that region's right to run it."""
    revision: int = 1
    """How often it was written."""

    @property
    def over(self) -> bool:
        return self.status in OVER

    @property
    def key(self) -> str:
        """Of its document."""
        return key_of(self.saga, self.id)


def key_of(saga: str, id: str) -> str:
    """The key of a saga's document."""
    return f"{saga}/{id}"


def effect_key(instance: Instance, method: str) -> str:
    """Names one act outside, the same in each attempt and in each region."""
    whole = "\0".join((instance.saga, instance.id, instance.nonce, method))
    return f"{instance.saga}.{method}.{blake2b(whole.encode(), digest_size=12).hexdigest()}"


_encode = msgspec.json.Encoder(order=None).encode
_decode = msgspec.json.Decoder(Instance).decode


def encoded(instance: Instance) -> bytes:
    """The text of its document."""
    return _encode(instance)


def decoded(text: bytes) -> Instance:
    """Raises msgspec.ValidationError for what no version wrote."""
    return _decode(text)
