from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.client import multiplex
from atoll.client.multiplex import Answered, AnswerReader, Asked
from atoll.errors import MalformedRequest, TooLarge

texts = st.text(max_size=8)
answers = st.builds(
    Answered,
    st.integers(0, 300),
    st.integers(100, 599),
    st.dictionaries(texts, texts),
    st.binary(max_size=60),
)
requests = st.builds(Asked, texts, texts, texts, st.dictionaries(texts, texts), st.binary(max_size=60))


@given(st.lists(requests, max_size=5))
def test_requests_come_out_as_they_went_in(asked: list[Asked]) -> None:
    assert multiplex.decode_asked(multiplex.encode_asked(asked)) == asked


@given(st.lists(answers, max_size=6), st.lists(st.integers(1, 40), min_size=1, max_size=20))
def test_answers_come_out_whole_however_they_are_cut(sent: list[Answered], cuts: list[int]) -> None:
    stream = b"".join(map(multiplex.encode_answered, sent))
    reader, found, at = AnswerReader(1000), [], 0
    while at < len(stream):
        size = cuts[at % len(cuts)]
        found += reader.feed(stream[at : at + size])
        at += size
    assert found == sent


@pytest.mark.parametrize("body", [b"", b"\xc1", msgspec.msgpack.encode([["GET", "/v1/a/b"]]), b"{}"])
def test_what_holds_no_requests_is_refused(body: bytes) -> None:
    with pytest.raises(MalformedRequest, match="holds no requests"):
        multiplex.decode_asked(body)


def test_too_many_requests_are_refused() -> None:
    one = Asked("GET", "/v1/a/b", "", {}, b"")
    assert len(multiplex.decode_asked(multiplex.encode_asked([one] * 256))) == 256
    with pytest.raises(TooLarge, match="257 requests at once; the limit is 256"):
        multiplex.decode_asked(multiplex.encode_asked([one] * 257))
    with pytest.raises(TooLarge, match="1048576 requests at once"):
        multiplex.decode_asked(b"\xdd\x00\x10\x00\x00")  # that there are none is not looked at


def test_an_answer_beyond_the_bound_is_refused_before_it_is_read() -> None:
    large = multiplex.encode_answered(Answered(0, 200, {}, bytes(2000)))
    with pytest.raises(TooLarge, match="the limit is 1000"):
        list(AnswerReader(1000).feed(large[:10]))


def test_what_is_no_answer_is_refused() -> None:
    with pytest.raises(MalformedRequest, match="is not an answer"):
        list(AnswerReader(1000).feed(b"\x01\x00\x00\x00\xc1"))
