from __future__ import annotations

import binascii
import contextlib
import hashlib
import hmac

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.causality import token
from atoll.causality.token import MAX_SEQ, TokenCodec, region_token_number
from atoll.errors import ConfigError, InvalidToken

KEY = b"a key of at least sixteen bytes"
REGIONS = ["tokyo", "frankfurt", "virginia"]
CODEC = TokenCodec(KEY, "shop", lambda: REGIONS)
VECTOR = {"tokyo": 20_511, "frankfurt": 3, "virginia": 4_000_000_000}
vectors = st.dictionaries(st.sampled_from(REGIONS), st.integers(1, MAX_SEQ))


def signed(body: bytes) -> str:
    """A token with a good signature over any body: what only a holder of the key can make."""
    message = b"atoll session token\0shop\0" + body
    raw = body + hmac.new(KEY, message, hashlib.sha256).digest()[:10]
    return binascii.b2a_base64(raw, newline=False).decode().translate(str.maketrans("+/", "-_")).rstrip("=")


def claiming(components: object) -> str:
    return signed(b"\x02" + msgspec.msgpack.encode(components))


def reason_for(text: str, **options: dict[str, int]) -> str:
    with pytest.raises(InvalidToken) as caught:
        CODEC.decode(text, **options)
    assert caught.value.message.endswith("start a new session without a token")
    return str(caught.value.details["reason"])


@given(vectors)
def test_token_carries_its_vector(vector: dict[str, int]) -> None:
    assert CODEC.decode(CODEC.encode(vector)) == vector


def test_token_of_three_regions_is_short_and_safe_in_a_header() -> None:
    text = CODEC.encode(VECTOR)
    assert len(text) <= 60
    assert set(text) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


@given(st.permutations(list(VECTOR.items())))
def test_equal_vectors_have_equal_tokens(items: list[tuple[str, int]]) -> None:
    assert CODEC.encode(dict(items)) == CODEC.encode(VECTOR)
    assert CODEC.encode({"tokyo": 1, "virginia": 0}) == CODEC.encode({"tokyo": 1})


def test_token_is_the_same_in_every_process() -> None:
    assert CODEC.encode({"tokyo": 7}) == "AoHOAAW4ZQcsOy-_NP3m3JzY"


@given(
    st.dictionaries(
        st.sampled_from([*REGIONS, "tokyo~5", "tokyo~aaaaaaaa", "virginia~1"]), st.integers(1, MAX_SEQ)
    )
)
def test_a_token_tells_incarnations_apart(vector: dict[str, int]) -> None:
    assert CODEC.decode(CODEC.encode(vector)) == vector


def test_what_no_incarnation_is_called_is_refused() -> None:
    number = region_token_number("tokyo")
    assert reason_for(claiming({number: {-2: 3}})) == "absurd"
    assert reason_for(claiming({number: {1 << 52: 3}})) == "absurd"
    assert reason_for(claiming({number: {1: 0}})) == "absurd"


def test_token_outlives_the_addition_of_a_region() -> None:
    grown = TokenCodec(KEY, "shop", lambda: ["aachen", *REGIONS, "zurich"])
    assert grown.decode(CODEC.encode(VECTOR)) == VECTOR
    assert CODEC.decode(grown.encode(VECTOR)) == VECTOR


def test_the_regions_are_asked_each_time() -> None:
    regions = frozenset(REGIONS)
    codec = TokenCodec(KEY, "shop", lambda: regions)
    foreign = TokenCodec(KEY, "shop", lambda: [*REGIONS, "zurich"]).encode({"zurich": 3})
    with pytest.raises(InvalidToken, match="never was one here"):
        codec.decode(foreign)
    regions |= {"zurich"}
    assert codec.decode(foreign) == {"zurich": 3}
    assert codec.encode({"zurich": 3}) == foreign


@given(vectors, st.data())
def test_no_altered_character_passes(vector: dict[str, int], data: st.DataObject) -> None:
    text = CODEC.encode(vector)
    place = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.sampled_from("AgQw059-_+/=é ").filter(lambda c: c != text[place]))
    assert reason_for(text[:place] + other + text[place + 1 :]) in {
        "malformed",
        "bad-signature",
        "unknown-version",
    }


@given(st.text(max_size=80))
def test_arbitrary_text_is_refused(text: str) -> None:
    assert reason_for(text) in {"malformed", "unknown-version", "bad-signature"}


@given(st.binary(max_size=60))
def test_signed_garbage_raises_nothing_but_invalid_token(body: bytes) -> None:
    with contextlib.suppress(InvalidToken):
        CODEC.decode(signed(b"\x02" + body))


def test_long_text_is_refused_unread() -> None:
    assert reason_for("A" * 2049) == "too-long"


@pytest.mark.parametrize("text", ["", "A", "!!!", "Ag==", "Ag", "AoA", "A" * 2048])
def test_text_that_no_codec_writes_is_refused(text: str) -> None:
    assert reason_for(text) in {"malformed", "unknown-version"}


def test_unknown_version_is_named() -> None:
    text = signed(b"\x03" + msgspec.msgpack.encode({}))
    with pytest.raises(InvalidToken, match="version 3 is not known here, only 2"):
        CODEC.decode(text)


@pytest.mark.parametrize(
    "codec",
    [
        TokenCodec(KEY, "other", lambda: REGIONS),
        TokenCodec(b"another key of 16 bytes", "shop", lambda: REGIONS),
    ],
)
def test_token_of_another_deployment_or_key_is_refused(codec: TokenCodec) -> None:
    assert reason_for(codec.encode(VECTOR)) == "bad-signature"


def test_unknown_region_is_refused() -> None:
    grown = TokenCodec(KEY, "shop", lambda: [*REGIONS, "sydney"])
    assert reason_for(grown.encode({"sydney": 1})) == "unknown-region"


@pytest.mark.parametrize("seq", [0, -1, MAX_SEQ + 1, 1 << 63])
def test_absurd_claim_is_refused(seq: int) -> None:
    assert reason_for(claiming({region_token_number("tokyo"): seq})) == "absurd"


@pytest.mark.parametrize("components", [[1, 2], {"tokyo": 1}, {region_token_number("tokyo"): 1.5}, None])
def test_signed_vector_of_another_shape_is_refused(components: object) -> None:
    assert reason_for(claiming(components)) == "malformed"


def test_claim_past_what_a_region_issued_is_refused() -> None:
    text = CODEC.encode(VECTOR)
    assert CODEC.decode(text, issued={"tokyo": 20_511}) == VECTOR
    with pytest.raises(InvalidToken, match="claims entry 20511 of tokyo, which has issued 20510"):
        CODEC.decode(text, issued={"tokyo": 20_510})


def test_vector_with_a_strange_region_is_not_encoded() -> None:
    with pytest.raises(ConfigError, match="names sydney, but the deployment's regions are frankfurt"):
        CODEC.encode({"sydney": 4, "tokyo": 1})


def test_short_key_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least 16"):
        TokenCodec(b"secret", "shop", lambda: REGIONS)


def test_regions_with_one_number_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token, "region_token_number", len)
    with pytest.raises(ConfigError, match="'osaka' and 'tokyo' have the same number"):
        TokenCodec(KEY, "shop", lambda: ["tokyo", "osaka", "frankfurt"]).encode({"tokyo": 1})
