"""Sizes: one table, from which every other bound is derived, so that all of them fit together.

    document ≤ body of a write ≤ entry ≤ segment ≤ frame ≤ reply of a peer
    document ≤ page, event, record, answer ≤ what a client reads

What is *written* goes by the configured sizes: whatever would exceed them is refused before it is committed. What is
*read* of a peer, a journal or an archive goes by constants. So regions whose configurations differ for a while
can read each other. Nothing that was committed stops a link, a feed, a listing or a client.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from atoll.errors import ConfigError

DOCUMENT_BYTES: Final = 1 << 20
"""What `document_bytes` is unless atoll.toml says otherwise."""
MOST_DOCUMENT_BYTES: Final = 64 << 20
"""What `document_bytes` may be at most."""
MOST_KEY_BYTES: Final = 4096
"""What `key_bytes` may be at most; keys of peers go by this one, whatever is configured here."""
INDEXED_KEY_BYTES: Final = 2400
"""Of a key in PostgreSQL: an entry of its indexes has at most 2704 bytes, with the collection's name."""

ENTRY_BYTES: Final = 32 << 20
"""The largest entry while documents are of ordinary size."""
LOADED_BYTES: Final = 64 << 20
"""Of the documents that a transaction loads, or one entry if that may be larger. One document is always loaded."""
MAX_ENTRY_BYTES: Final = 900_000_000
"""The largest entry that anybody reads, and so the largest that any configuration allows."""
SEGMENT_BYTES: Final = 1 << 20
"""A segment that holds so much takes no further entry; a stream and a snapshot's page take no further one either."""
BESIDE_BYTES: Final = 2 << 20
"""More is sealed, read and written in a thread: each of these steps would stop the event loop for ten milliseconds."""
MAX_FRAME_BYTES: Final = MAX_ENTRY_BYTES + (4 << 20)
"""Of a stream between regions: a segment, or several smaller ones."""
COMMIT_BYTES: Final = 16 << 20
"""A group commit that writes so much leaves the rest to the next one."""
PAGE_BYTES: Final = 4 << 20
"""A page of rows, or an event of the feed, that holds so much ends with it; it holds one row at least."""
INBOX_BYTES: Final = 32 << 20
"""A link of which so much waits to be applied reads nothing more."""
MAX_ROW_BYTES: Final = 1_000_000_000
"""Of a row, and so of a peer's reply: what SQLite and PostgreSQL store in one value."""
CHUNK_BYTES: Final = 2 << 20
"""Rows of a backup that hold so much make a piece, and rows of an import a batch."""
MAX_CHUNK_BYTES: Final = 1 << 30
"""Of a piece of a backup: a row, or several smaller ones."""

BATCH_BYTES: Final = 16 << 20
"""Of the body of a batch."""
BATCH_WRITES: Final = 1000
"""Of a batch."""
BATCH_ANSWER_BYTES: Final = 24 << 20
"""Of the documents in the answer to a batch of several."""
RESPONSE_BYTES: Final = 32 << 20
"""What a client reads at least."""
MULTIPLEX_BYTES: Final = 8 << 20
"""Of the requests in one exchange; larger ones go alone."""
ENVELOPE_BYTES: Final = 64 << 10
"""Of what surrounds a document in a body."""
QUERY_BYTES: Final = 3 * MOST_KEY_BYTES + 4 * MOST_KEY_BYTES // 3 + (2 << 10)
"""Of a query string: a prefix with all its bytes escaped, a cursor in base64, and some conditions."""


class Bounds(NamedTuple):
    """What a deployment's documents make of the other sizes; made by `bounds_of`."""

    document_bytes: int
    """Of a document that a write leaves behind, as JSON text. Merging may show larger ones."""
    body_bytes: int
    """Of a patch, or of a document in an envelope."""
    batch_bytes: int
    """Of the body of a batch."""
    call_bytes: int
    """Of a call to a peer, such as a batch that is forwarded: its JSON text, and the parsed fields beside it."""
    entry_bytes: int
    """Of an entry that is written here."""
    answer_bytes: int
    """Of an answer or an event: a page, and one item more. An item has a value of each of two sides, or of all
    regions, each as large as concurrent writes can make a document."""


def bounds_of(document_bytes: int, regions: int) -> Bounds:
    """Raises ConfigError where a document of this size could not be changed, sent or stored in every case.

    A write of a document with concurrent versions of all regions carries, beside the document, a record of each
    version that it replaces. The record holds the losing and the winning value.
    """
    regions = max(regions, 2)
    batch_bytes = max(BATCH_BYTES, document_bytes + 2 * CHUNK_BYTES)
    entry_bytes = (2 * regions + 1) * document_bytes + (1 << 20)
    if entry_bytes > MAX_ENTRY_BYTES:
        most = (MAX_ENTRY_BYTES - (1 << 20)) // (2 * regions + 1)
        raise ConfigError(
            f"document_bytes is {document_bytes}: with {regions} regions at most {most}, or the entry that"
            f" resolves their conflicts could exceed {MAX_ENTRY_BYTES} bytes"
        )
    return Bounds(
        document_bytes,
        body_bytes=document_bytes + ENVELOPE_BYTES,
        batch_bytes=batch_bytes,
        call_bytes=4 * batch_bytes,
        entry_bytes=max(ENTRY_BYTES, entry_bytes),
        answer_bytes=max(RESPONSE_BYTES, PAGE_BYTES + 2 * regions * document_bytes + (1 << 20)),
    )
