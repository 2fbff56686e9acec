from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

import atoll
from atoll.client.options import ClientOptions, fitted
from atoll.config.file import MOST_REGIONS
from atoll.errors import ConfigError
from atoll.http.common import encode_cursor
from atoll.schema.bounds import (
    BATCH_ANSWER_BYTES,
    MAX_CHUNK_BYTES,
    MAX_ENTRY_BYTES,
    MAX_FRAME_BYTES,
    MAX_ROW_BYTES,
    MOST_DOCUMENT_BYTES,
    MOST_KEY_BYTES,
    PAGE_BYTES,
    QUERY_BYTES,
    RESPONSE_BYTES,
    SEGMENT_BYTES,
    bounds_of,
)
from atoll.schema.limits import Limits


@given(st.integers(1, MOST_DOCUMENT_BYTES), st.integers(1, MOST_REGIONS))
def test_sizes_fit_together(document_bytes: int, regions: int) -> None:
    try:
        found = bounds_of(document_bytes, regions)
    except ConfigError:
        assert document_bytes * (2 * regions + 1) > MAX_ENTRY_BYTES - (2 << 20)
        return
    assert document_bytes < found.body_bytes <= found.batch_bytes < found.call_bytes < MAX_ROW_BYTES
    # Each region's concurrent version may be as large as a document, and is resolved with a record of two values.
    assert document_bytes + 2 * regions * document_bytes < found.entry_bytes <= MAX_ENTRY_BYTES
    assert regions * document_bytes + document_bytes < MAX_ROW_BYTES
    assert PAGE_BYTES + 2 * regions * document_bytes < found.answer_bytes
    assert found.answer_bytes >= RESPONSE_BYTES > BATCH_ANSWER_BYTES + 1000 * MOST_KEY_BYTES


def test_what_is_read_holds_what_is_written() -> None:
    assert SEGMENT_BYTES + MAX_ENTRY_BYTES < MAX_FRAME_BYTES < MAX_ROW_BYTES < MAX_CHUNK_BYTES
    assert (
        len(quote("\u00e9" * (MOST_KEY_BYTES // 2))) + len(encode_cursor("k" * MOST_KEY_BYTES)) < QUERY_BYTES
    )


@pytest.mark.parametrize("regions", [1, 2, 3, 5])
def test_the_largest_documents_are_permitted(regions: int) -> None:
    assert bounds_of(MOST_DOCUMENT_BYTES, regions).document_bytes == MOST_DOCUMENT_BYTES


def test_documents_that_many_regions_could_not_resolve_are_refused() -> None:
    with pytest.raises(ConfigError, match="with 32 regions at most 13830021"):
        bounds_of(MOST_DOCUMENT_BYTES, 32)
    assert bounds_of(13_830_021, 32).entry_bytes <= MAX_ENTRY_BYTES


BOUNDED = (
    *(
        "documents/*.py",
        "commit/batch.py",
        "commit/checks.py",
        "config/*.py",
        "schema/limits.py",
        "backup/*.py",
    ),
    *(
        "http/*.py",
        "client/options.py",
        "client/multiplex.py",
        "region/options.py",
        "store/port.py",
        "store/queries.py",
    ),
    *("replication/link.py", "replication/http_peers.py", "replication/source.py", "replication/snapshot.py"),
    *("bulk/importing.py", "bulk/exporting.py"),
)
"""Modules that refuse, cut or split something by its size."""


def test_bounds_come_from_the_one_table() -> None:
    root = Path(atoll.__file__).parent
    modules = [path for pattern in BOUNDED for path in root.glob(pattern)]
    assert len(modules) > len(BOUNDED)
    assert [path.name for path in modules if re.search(r"<< 2\d\b", path.read_text("utf-8"))] == []


def test_a_client_reads_whatever_a_region_may_answer() -> None:
    assert fitted(ClientOptions(), None, 3).response_bytes == RESPONSE_BYTES
    assert fitted(ClientOptions(), Limits(document_bytes=20 << 20), 3).response_bytes > 2 * 3 * (20 << 20)
    chosen = ClientOptions(response_bytes=1000)
    assert fitted(chosen, Limits(document_bytes=20 << 20), 3) is chosen
