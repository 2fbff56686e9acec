from __future__ import annotations

import json
from typing import Any

import pytest

from atoll import errors
from atoll.errors import AtollError, Indefinite, StoreUnwritable, Unavailable, error_classes
from atoll.http.problems import PREFIX, headers_of, problem

CLASSES = sorted(error_classes().values(), key=lambda cls: cls.type)


def all_subclasses(cls: type[AtollError]) -> set[type[AtollError]]:
    return {cls}.union(*(all_subclasses(sub) for sub in cls.__subclasses__()))


def document(error: AtollError) -> Any:
    return json.loads(problem(error)[1])


def test_every_error_has_a_slug_of_its_own() -> None:
    declared = {each for each in all_subclasses(AtollError) if each.__module__ == errors.__name__}
    slugs = [each.type for each in declared]
    assert len(set(slugs)) == len(slugs) == len(declared)
    assert declared <= set(CLASSES)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.type)
def test_every_error_becomes_a_problem_document(cls: type[AtollError]) -> None:
    status, body = problem(cls("what was wrong", key="k"))
    found = json.loads(body)
    assert 400 <= status < 600
    assert found == {
        "type": PREFIX + cls.type,
        "title": found["title"],
        "status": cls.status,
        "detail": "what was wrong",
        "definite": not issubclass(cls, Indefinite),
        "key": "k",
    }
    assert found["title"]


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.type)
def test_a_status_fits_its_branch(cls: type[AtollError]) -> None:
    client_s_fault = issubclass(cls, errors.RequestError | errors.ReplicationError)
    assert (400 <= cls.status < 500) is client_s_fault
    assert (cls.status == 503) is issubclass(cls, Unavailable)


@pytest.mark.parametrize("name", ["type", "title", "status", "detail", "instance"])
def test_details_never_hide_a_standard_member(name: str) -> None:
    found = document(AtollError("message", **{name: "mine"}))
    assert found[f"{name}_"] == "mine"
    assert found.get(name) != "mine"


def test_a_detail_that_is_no_json_is_told_as_text() -> None:
    assert document(AtollError("message", where={1}, what=ValueError("x")))["what"] == "x"


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.type)
def test_only_what_a_repetition_may_mend_says_when(cls: type[AtollError]) -> None:
    told = dict(headers_of(cls("m", allow=("GET",))))
    assert (b"retry-after" in told) is issubclass(cls, Unavailable | errors.StoreError)


def test_a_full_disk_is_507() -> None:
    assert problem(StoreUnwritable("full"))[0] == 507
