"""`/v1/transactions`: strong documents that are read, checked and written together."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from atoll import errors
from atoll.client.answers import TransactionAnswer
from atoll.commit.checks import check_batch
from atoll.documents.mutation import Check, Mutation, Write
from atoll.errors import InvalidOperation, MalformedRequest
from atoll.http.bodies import CheckItem, ReadItem, TransactionBody, decode_transaction
from atoll.http.common import BODY, REGION, TOKEN, WRITE, WRITING, idempotency_key_of
from atoll.http.documents import REPLAYED, after, answer_told, headers_of, mutations_of, trace_of
from atoll.http.exchange import Exchange
from atoll.http.route import AT_ONCE_BYTES, Answer, Body, Route, Serving
from atoll.schema.limits import check_members


async def _transact(on: Serving, exchange: Exchange, at: Sequence[str]) -> None:
    token = await on.sessions.of(exchange)
    body = await exchange.body(on.region.bounds.batch_bytes)
    asked = _asked(body) if len(body) <= AT_ONCE_BYTES else await on.beside(_asked, body)
    if asked.reads:
        if asked.checks or asked.writes:
            raise InvalidOperation(
                "a transaction has reads, or checks and writes: read first, and check what was read when you write"
            )
        addresses = [_address(on, each) for each in asked.reads]
        found, vector = await on.region.snapshot(addresses)
        headers = headers_of(on.region.name, on.sessions.after(vector, token))
        await answer_told(on, exchange, headers, read=found, written=())
        return
    check_batch(len(asked.checks) + len(asked.writes))
    mutations = (
        _mutations(on, asked) if len(body) <= AT_ONCE_BYTES else await on.beside(_mutations, on, asked)
    )
    write = Write(mutations, idempotency_key_of(exchange), trace_of(on, exchange))
    reply = await on.region.transact(write, token)
    await answer_told(on, exchange, after(on, reply, token), read=(), written=reply.receipt.written)


def _asked(body: bytes) -> TransactionBody:
    try:
        asked = decode_transaction(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedRequest(
            'a transaction is {"checks": [{"collection", "key", "version"}], "writes": [as in a batch]}, or'
            f' {{"reads": [{{"collection", "key"}}]}}: {error}'
        ) from None
    check_members(body, asked)
    return asked


def _mutations(on: Serving, asked: TransactionBody) -> tuple[Mutation, ...]:
    checks = (
        Check(*_address(on, each), each.version, if_absent=each.version is None) for each in asked.checks
    )
    return (*checks, *mutations_of(on, asked.writes))


def _address(on: Serving, item: CheckItem | ReadItem) -> tuple[str, str]:
    rules = on.rules(item.collection)
    return rules.name, rules.schema.validate_key(item.key)


ROUTES = (
    Route(
        method="POST",
        path="/v1/transactions",
        name="transaction",
        handler=_transact,
        access="write",
        meaning="strong documents, all or none: `checks` are versions that must still be there (null: absent), `writes`"
        " are as in a batch. With `reads` alone, a snapshot of several documents",
        parameters=WRITE,
        body=Body({"$ref": "#/components/schemas/Transaction"}),
        answers=(
            Answer(
                "all is done",
                TransactionAnswer,
                headers=(TOKEN, REGION, REPLAYED),
            ),
        ),
        problems=(
            errors.UnknownCollection,
            errors.InvalidKey,
            errors.NotFound,
            errors.InvalidDocument,
            errors.UnknownField,
            *WRITING,
            *BODY,
        ),
        multiplexed=True,
    ),
)
