"""The documents that every measurement uses, so that ratios compare the same work."""

from __future__ import annotations

import json
from random import Random

DOCUMENT_BYTES = 1024
_BODIES = 4096


def _bodies() -> list[bytes]:
    random = Random("documents")
    bodies = []
    for number in range(_BODIES):
        document = {"title": f"document {number}", "stock": random.randrange(1000), "text": ""}
        missing = DOCUMENT_BYTES - len(json.dumps(document))
        document["text"] = random.randbytes(missing).hex()[:missing]
        bodies.append(json.dumps(document).encode())
    return bodies


_POOL = _bodies()


def document_key(number: int) -> str:
    """The key of document `number` below a million: scattered, since keys in order are cheaper to insert."""
    return f"doc-{number * 611_953 % 1_000_000:06d}"


def document_body(number: int) -> bytes:
    """JSON text of `DOCUMENT_BYTES` bytes."""
    return _POOL[number % _BODIES]
