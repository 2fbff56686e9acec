from __future__ import annotations

import pytest

from atoll.cli.regions import Regions, open_config
from atoll.errors import ConfigError, MalformedRequest, RegionUnreachable

from .conftest import Deployment


def test_problem_document_becomes_its_error_again(deployment: Deployment) -> None:
    problem = {
        "type": "urn:atoll:problem:malformed-request",
        "detail": "no such kind",
        "status": 400,
        "limit": 3,
    }
    deployment.answers("tokyo", lambda path, query: (400, problem))
    with pytest.raises(MalformedRequest, match="tokyo: no such kind") as raised:
        Regions(open_config(deployment.config)).ask("tokyo", "/v1/conflicts")
    assert raised.value.details == {"limit": 3}


def test_silent_region_is_unreachable_and_says_how_to_start_it(deployment: Deployment) -> None:
    deployment.silent("tokyo")
    with pytest.raises(RegionUnreachable, match=r"nothing listens there.*atoll serve --region tokyo"):
        Regions(open_config(deployment.config)).ask("tokyo", "/admin/status")


def test_something_else_at_the_url_is_a_mistake_in_the_file(deployment: Deployment) -> None:
    deployment.answers("tokyo", lambda path, query: (200, b"<html>"))
    with pytest.raises(ConfigError, match="not an Atoll region"):
        Regions(open_config(deployment.config)).ask("tokyo", "/admin/status")


def test_first_region_that_answers_is_taken(deployment: Deployment) -> None:
    deployment.silent("frankfurt")
    deployment.answers("tokyo", lambda path, query: (200, {"path": path, "query": query}))
    name, body = Regions(open_config(deployment.config)).ask_first("/v1/conflicts", {"key": "a b&c"})
    assert (name, body) == ("tokyo", {"path": "/v1/conflicts", "query": {"key": ["a b&c"]}})


def test_nobody_answering_names_everybody(deployment: Deployment) -> None:
    deployment.silent("frankfurt")
    deployment.silent("tokyo")
    with pytest.raises(RegionUnreachable, match=r"frankfurt does not answer.*tokyo does not answer"):
        Regions(open_config(deployment.config)).ask_first("/admin/verify")


def test_all_regions_are_asked_whatever_one_does(deployment: Deployment) -> None:
    deployment.silent("frankfurt")
    deployment.answers("tokyo", lambda path, query: (200, {"region": "tokyo"}))
    nodes = Regions(open_config(deployment.config)).ask_nodes("/admin/status")
    found = {node.region: node.answer for node in nodes}
    assert isinstance(found["frankfurt"], RegionUnreachable)
    assert found["tokyo"] == {"region": "tokyo"}
