from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.causality.token import TokenCodec
from atoll.errors import InvalidToken, Unavailable
from atoll.http.sessions import HEADER, Sessions

from .asgi import Connection

CODEC = TokenCodec(b"k" * 32, "shop", lambda: ("a", "b", "c"))
vectors = st.dictionaries(st.sampled_from("abc"), st.integers(1, 9))


def sessions(*, database: int = 0, closed: bool = False, **vector: int) -> Sessions:
    """Of a node that has heard of so much, while its region's database holds up to `database` of its own.

    `closed`: it is being restored.
    """
    region: Any = SimpleNamespace(name="a", origin="a", vector=vector)

    def check_whole() -> None:
        if closed:
            raise Unavailable("a lacks what its peers had of it")

    async def refresh() -> dict[str, int]:
        vector["a"] = max(vector.get("a", 0), database)
        return vector

    region.refresh, region.check_whole, region.check_token = refresh, check_whole, lambda token: None
    return Sessions(cast(Any, region), CODEC)


def asking(token: str) -> Any:
    return Connection(headers={HEADER: token.encode("latin-1")}).exchange


async def test_a_request_without_a_token_has_seen_nothing() -> None:
    assert await sessions(a=3).of(Connection().exchange) is None


@given(vectors)
async def test_a_token_is_read_back(vector: dict[str, int]) -> None:
    assert await sessions(a=9).of(asking(CODEC.encode(vector))) == vector


async def test_a_token_from_this_region_s_future_is_refused() -> None:
    with pytest.raises(InvalidToken, match="issued 3"):
        await sessions(a=3).of(asking(CODEC.encode({"a": 4})))
    assert await sessions(a=3).of(asking(CODEC.encode({"b": 99}))) == {"b": 99}


async def test_a_region_that_is_being_restored_refuses_no_token() -> None:
    """It issued it, perhaps; the client has to go to another region, and must not be told that the token is wrong."""
    with pytest.raises(Unavailable):
        await sessions(a=3, closed=True).of(asking(CODEC.encode({"a": 4})))


async def test_a_token_of_another_node_of_this_region_is_taken() -> None:
    assert await sessions(a=3, database=5).of(asking(CODEC.encode({"a": 5}))) == {"a": 5}


@pytest.mark.parametrize("token", ["", "x", "\xe9", "AAAA", CODEC.encode({"a": 1})[:-1]])
async def test_a_token_that_is_none_is_refused(token: str) -> None:
    with pytest.raises(InvalidToken):
        await sessions(a=3).of(asking(token))


@given(vectors, vectors)
def test_an_answer_s_token_forgets_nothing(here: dict[str, int], token: dict[str, int]) -> None:
    answered = CODEC.decode(sessions().after(here, token).decode())
    assert answered == {r: max(here.get(r, 0), token.get(r, 0)) for r in here.keys() | token.keys()}


def test_the_same_position_has_the_same_token() -> None:
    it, vector = sessions(), {"a": 1}
    assert it.after(vector, None) is it.after(vector, {"a": 1})
    assert it.after({"a": 2}, None) == CODEC.encode({"a": 2}).encode()
