"""What became of a transaction: a register of its own, which is decided once.

A transaction puts intents on the registers of its documents. Then its coordinator proposes that it is committed.
Whoever waits for an intent too long proposes that it is aborted. What a majority accepts first holds, whoever asks. So
the death of a coordinator stops nobody.

Gray and Lamport, "Consensus on Transaction Commit", 2006. Here the coordinator's vote is the only one: the intents are
decided values themselves.
"""

from __future__ import annotations

from typing import Final

import msgspec

from atoll.causality.types import Ballot

OUTCOMES: Final = "=/"
"""Begins the names of their registers. No collection is called so."""
KEPT_MS: Final = 86_400_000
"""An outcome is kept so long if intents may be left. No message is on its way for longer."""


class Outcome(msgspec.Struct, array_like=True, frozen=True):
    committed: bool
    revisions: dict[str, int]
    """Register of each participant → the revision that its intent was put on; 0 where the transaction is aborted."""
    home: str = ""
    """The region that has to write other documents with it: only this one drops the outcome."""


_encode = msgspec.msgpack.Encoder(order="sorted").encode
_decode = msgspec.msgpack.Decoder(Outcome).decode


def encoded(outcome: Outcome) -> bytes:
    """As acceptors keep it."""
    return _encode(outcome)


def decoded(data: bytes) -> Outcome:
    """Raises msgspec.DecodeError."""
    return _decode(data)


def aborted(participants: tuple[str, ...]) -> Outcome:
    return Outcome(False, dict.fromkeys(participants, 0))


def transaction_id(now_ms: int, noise: int) -> str:
    """Identifiers are in the order of their time. `noise` has 64 bits."""
    return f"{now_ms:012x}-{noise:016x}"


def begun_ms(transaction: str) -> int:
    """When its coordinator began. Raises ValueError for what is no identifier."""
    return int(transaction.partition("-")[0], 16)


def register_of(transaction: str) -> str:
    """The name of its outcome's register."""
    return OUTCOMES + transaction


def first_ballot(proposer: str) -> Ballot:
    """The coordinator's. It needs no promise: it is below every other, and nobody else begins one so low."""
    return Ballot(1, proposer)
