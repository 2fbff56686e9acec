"""What is remembered of a write with an idempotency key, and the receipt that a repeated one gets."""

from __future__ import annotations

from hashlib import blake2b

import msgspec

from atoll.documents.mutation import Put, Receipt, Write, Written
from atoll.errors import IdempotencyKeyReused

_AS_ASKED = b""
"""Stands, in what is remembered, for the document that the write itself holds; it is no JSON."""
_pack = msgspec.msgpack.Encoder().encode
_receipt = msgspec.msgpack.Decoder(Receipt).decode


def fingerprint(write: Write) -> bytes:
    """Of what was asked for: the rest follows from that, and from what there was before."""
    return blake2b(_pack(write.asked), digest_size=8).digest()


def identifier(key: str) -> bytes:
    """By which registers know the change of an idempotency key."""
    return blake2b(key.encode(), digest_size=12).digest()


def answer_of(receipt: Receipt, write: Write) -> bytes:
    """The answer, without what whoever repeats the write brings along anyway: nearly all of it."""
    written = receipt.written
    if len(written) == len(write.mutations) == 1:
        (put,), (only,) = write.mutations, written
        if type(put) is Put and put.plain == only.value:
            written = (Written(only.collection, only.key, _AS_ASKED, only.version),)
    return _pack(
        msgspec.structs.replace(receipt, written=written, fingerprint=fingerprint(write), replayed=False)
    )


def replay(answer: bytes, write: Write) -> Receipt:
    """The receipt that was given. Raises IdempotencyKeyReused."""
    receipt = _receipt(answer)
    if receipt.fingerprint != fingerprint(write):
        raise reused(write)
    written = tuple(
        Written(each.collection, each.key, write.mutations[0].plain, each.version)  # type: ignore[union-attr]
        if each.value == _AS_ASKED
        else each
        for each in receipt.written
    )
    return msgspec.structs.replace(receipt, written=written, replayed=True)


def reused(write: Write) -> IdempotencyKeyReused:
    return IdempotencyKeyReused(
        f"the idempotency key {write.idempotency_key!r} was used for another write; use a new key for each write",
        idempotency_key=write.idempotency_key,
    )
