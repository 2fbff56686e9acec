from __future__ import annotations

import json

from bench.documents import DOCUMENT_BYTES, document_body, document_key
from bench.memory import batch_of
from bench.regions import APPLICATION, COLLECTION


def test_documents_fit_the_collection() -> None:
    schema = APPLICATION.collections[COLLECTION]
    assert len(document_body(7)) == DOCUMENT_BYTES
    assert json.loads(schema.canonical(document_body(7))) == json.loads(document_body(7))


def test_keys_are_distinct_over_a_million() -> None:
    assert len({document_key(number) for number in range(1_000_000)}) == 1_000_000


def test_batches_follow_one_another_without_a_gap() -> None:
    bodies = [json.loads(batch_of(number, first=1_000).body) for number in range(2)]
    keys = [write["put"]["key"] for body in bodies for write in body["writes"]]
    assert keys == [document_key(number) for number in range(1_000, 1_000 + len(keys))]
    assert bodies[1]["writes"][0]["put"]["value"] == json.loads(document_body(1_000 + len(keys) // 2))
