from __future__ import annotations

import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll import errors
from atoll.client import Response
from atoll.client.answers import DocumentAnswer, problem_of, reader
from atoll.http.problems import problem


@pytest.mark.parametrize("kind", errors.error_classes().values())
def test_every_error_comes_back_as_its_class(kind: type[errors.AtollError]) -> None:
    status, body = problem(kind("what, where, what to do", left_here=3))
    found = problem_of(Response(status, {}, body))
    assert type(found) is kind
    assert found.message == "what, where, what to do"
    assert found.details == {"left_here": 3}


@pytest.mark.parametrize(
    ("status", "definite", "kind"),
    [
        (409, True, errors.RequestError),
        (503, True, errors.Unavailable),
        (500, True, errors.AtollError),
        (504, False, errors.Indefinite),
    ],
)
def test_error_of_a_later_version_falls_back(status: int, definite: bool, kind: type[Exception]) -> None:
    body = {"type": "urn:atoll:problem:from-the-future", "detail": "d", "definite": definite}
    assert type(problem_of(Response(status, {}, msgspec.json.encode(body)))) is kind


@pytest.mark.parametrize("status", [502, 503, 504])
def test_gateway_without_problem_leaves_the_outcome_open(status: int) -> None:
    assert not problem_of(Response(status, {}, b"<html></html>")).definite


@pytest.mark.parametrize(
    "body", [b"", b"Not Found", b'{"detail":"Not Found"}', b"[]", b"\xff", b'{"type":1}']
)
def test_foreign_refusal_is_a_configuration_error(body: bytes) -> None:
    assert isinstance(problem_of(Response(404, {}, body)), errors.ConfigError)


@given(st.binary(max_size=60))
def test_answer_of_any_bytes_is_read_or_refused(body: bytes) -> None:
    with contextlib.suppress(errors.ConfigError):
        reader(DocumentAnswer)(Response(200, {}, body))


def test_unknown_members_of_an_answer_are_skipped() -> None:
    body = b'{"key":"k","value":{"a":1},"version":"v","later":[1]}'
    found = reader(DocumentAnswer)(Response(200, {}, body))
    assert (found.key, bytes(found.value), found.version) == ("k", b'{"a":1}', "v")
