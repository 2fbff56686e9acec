from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.errors import InvalidKey, MalformedRequest, NotFound, Overloaded, TooLarge
from atoll.http.exchange import ClientGone, Exchange, parse_json, text_of

from .asgi import Connection


@pytest.mark.parametrize(
    ("path", "segments"),
    [
        (b"/", [b""]),
        (b"/v1/profile/k", [b"v1", b"profile", b"k"]),
        (b"/v1/profile/a%2Fb?x=1", [b"v1", b"profile", b"a%2Fb"]),
        (b"/v1/profile/", [b"v1", b"profile", b""]),
        (b"*", [b"*"]),
        (b"", [b""]),
    ],
)
def test_a_path_is_cut_at_its_slashes(path: bytes, segments: list[bytes]) -> None:
    assert Connection("GET", path).exchange.segments == segments


async def test_a_body_comes_together_from_its_chunks() -> None:
    assert await Connection("PUT", b"/", b"a", b"", b"bc").exchange.body(10) == b"abc"
    assert await Connection("PUT", b"/").exchange.body(10) == b""


@pytest.mark.parametrize("chunks", [(b"x" * 11,), (b"x" * 6, b"x" * 5), (b"x",) * 12])
async def test_a_body_past_its_limit_is_refused(chunks: tuple[bytes, ...]) -> None:
    with pytest.raises(TooLarge):
        await Connection("PUT", b"/", *chunks).exchange.body(10)
    assert len(await Connection("PUT", b"/", b"x" * 10).exchange.body(10)) == 10


async def test_a_declared_length_is_refused_unread() -> None:
    connection = Connection("PUT", b"/", b"", headers={b"content-length": b"11"})
    with pytest.raises(TooLarge):
        await connection.exchange.body(10)


@pytest.mark.parametrize("chunks", [(b"{",), (b"{", b"}"), (b"",)])
async def test_a_client_that_leaves_midway_is_noticed(chunks: tuple[bytes, ...]) -> None:
    with pytest.raises(ClientGone):
        await Connection("PUT", b"/", *chunks, cut=True).exchange.body(10)


async def test_an_answer_has_its_length_and_type() -> None:
    connection = Connection()
    await connection.exchange.answer_json({"a": 1}, 201, [(b"etag", b'"x"')])
    assert (connection.status, connection.body) == (201, b'{"a":1}')
    wanted = {b"content-type": b"application/json", b"content-length": b"7", b"etag": b'"x"'}
    assert connection.headers == wanted


async def test_a_head_has_everything_but_the_body() -> None:
    connection = Connection("HEAD")
    await connection.exchange.answer(200, b"body")
    assert (connection.body, connection.headers[b"content-length"]) == (b"", b"4")


async def test_a_refusal_is_a_problem_document() -> None:
    connection = Connection()
    await connection.exchange.refuse(NotFound("not here"), [(b"atoll-region", b"a")])
    assert connection.status == 404
    assert connection.headers[b"content-type"] == b"application/problem+json"
    assert connection.headers[b"atoll-region"] == b"a"
    assert b"retry-after" not in connection.headers


async def test_what_may_be_mended_says_when_to_retry() -> None:
    connection = Connection()
    await connection.exchange.refuse(Overloaded("busy"))
    assert connection.headers[b"retry-after"] == b"1"


@given(st.text(min_size=1))
def test_a_key_comes_back_from_its_percent_encoding(key: str) -> None:
    try:
        encoded = key.encode()
    except UnicodeEncodeError:
        return
    assert text_of(b"".join(b"%%%02x" % byte for byte in encoded)) == key


@pytest.mark.parametrize("segment", [b"%", b"a%2", b"%zz", b"%%25"])
def test_an_escape_that_is_none_is_malformed(segment: bytes) -> None:
    with pytest.raises(MalformedRequest, match="no percent-escape"):
        text_of(segment)


@pytest.mark.parametrize("segment", [b"\xff", b"%ff", b"%ed%a0%80", b"%c3"])
def test_a_key_that_is_no_text_is_refused(segment: bytes) -> None:
    with pytest.raises(InvalidKey):
        text_of(segment)


@given(st.binary(max_size=60))
def test_any_bytes_are_json_or_malformed(body: bytes) -> None:
    with contextlib.suppress(MalformedRequest):
        parse_json(body)


def test_nesting_without_end_is_malformed() -> None:
    with pytest.raises(MalformedRequest):
        parse_json(b"[" * 1_000_000)


async def test_a_long_stream_lets_others_go_on() -> None:
    connection = Connection("GET")
    turns: list[int] = []
    over = asyncio.Event()

    async def pieces() -> AsyncGenerator[bytes, None]:
        for _ in range(100):
            yield b"x" * 100_000  # which no client, and no store, makes it wait for
        over.set()

    async def receive() -> dict[str, Any]:
        await over.wait()
        return {"type": "http.disconnect"}

    async def other() -> None:
        while not over.is_set():
            turns.append(len(connection.sent))
            await asyncio.sleep(0)

    exchange = Exchange(connection.scope, receive, connection.send)
    await asyncio.gather(exchange.pump(pieces(), asyncio.Event()), other())
    assert len(connection.sent) == 101
    assert max(b - a for a, b in pairwise(turns)) <= 4
