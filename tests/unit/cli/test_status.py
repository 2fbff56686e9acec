from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from atoll.cli.main import app
from atoll.cli.regions import Node
from atoll.cli.status import regions_table

from .conftest import Deployment


def status_of(region: str, peer: str, *, connected: bool = True) -> dict[str, Any]:
    link = {
        "connected": connected,
        "held": True,
        "lag_s": 0.119,
        "behind": 3,
        "propagation_p50_ms": 117,
        "round_trip_ms": 234,
        "relays": ["virginia"],
        "last_error": None if connected else "the link is cut",
    }
    return {
        "region": region,
        "serving": True,
        "out_of_service": None,
        "position": {"tokyo": 41, "frankfurt": 7},
        "uncertainty_ms": 12,
        "clock": {"error_ms": 13, "assumed": False, "agreed": True},
        "links": {peer: link},
        "inbox": {"entries": 0, "held": None},
        "journal": {"bytes": 12_345_678, "segments": 9, "oldest_ms": 1_800_000_000_000, "truncated": 4},
        "counted": {"writes": 41, "conflicts": {"cart/insert_exists": 2, "cart/update_deleted": 3}},
        "emulated": None,
    }


def test_table_shows_positions_links_and_conflicts(deployment: Deployment) -> None:
    deployment.answers("tokyo", lambda path, query: (200, status_of("tokyo", "frankfurt")))
    result = CliRunner().invoke(app, ["status", "--config", deployment.config])
    assert result.exit_code == 0
    for shown in ("frankfurt 7 tokyo 41", "connected", "0.12 s", "117 ms", "234 ms", "virginia", " 5 "):
        assert shown in result.stdout


def test_table_shows_who_votes(deployment: Deployment) -> None:
    waiting = {
        "voting": False,
        "reason": "promises are taken over",
        "waits_for": ["frankfurt"],
        "proposals": 12_345,
        "lost": 67,
        "combined": 890,
    }
    answer = {**status_of("tokyo", "frankfurt"), "registers": waiting}
    deployment.answers("tokyo", lambda path, query: (200, answer))
    deployment.answers("frankfurt", lambda path, query: (200, status_of("frankfurt", "tokyo")))
    shown = CliRunner().invoke(app, ["status", "--config", deployment.config]).stdout
    rows = shown[shown.index("Strong documents") :]
    for each in ("no: promises are", "frankfurt", "12345", "67", "890"):
        assert each in rows


def test_no_table_of_votes_without_strong_documents(deployment: Deployment) -> None:
    answer = {**status_of("tokyo", "frankfurt"), "registers": None}
    deployment.answers("tokyo", lambda path, query: (200, answer))
    deployment.answers("frankfurt", lambda path, query: (200, status_of("frankfurt", "tokyo")))
    assert "Strong" not in CliRunner().invoke(app, ["status", "--config", deployment.config]).stdout


def test_table_shows_the_rights_of_each_region(deployment: Deployment) -> None:
    scarce = {
        "collection": "stock",
        "key": "mug",
        "field": "left",
        "left": 1234,
        "held": {"tokyo": 1200, "frankfurt": 34},
        "spent_per_s": {"tokyo": 5.5, "frankfurt": 0.0},
        "lasts_s": 218.2,
    }
    rights = {"counters": 1, "exhausted": 0, "scarcest": [scarce]}
    deployment.answers(
        "tokyo", lambda path, query: (200, status_of("tokyo", "frankfurt") | {"rights": rights})
    )
    deployment.answers("frankfurt", lambda path, query: (200, status_of("frankfurt", "tokyo")))
    shown = CliRunner().invoke(app, ["status", "--config", deployment.config]).stdout
    rows = shown[shown.index("Rights") :]
    for each in ("stock/mug/left", "1234", "5.5/s", "218.2 s", "frankfurt 34", "tokyo 1200"):
        assert each in rows


def test_table_shows_fields_that_are_not_whole(deployment: Deployment) -> None:
    build = {
        "field": "member.email",
        "kind": "unique",
        "state": "waiting",
        "waits_for": ["virginia"],
        "looked": 4321,
        "conflicts": 0,
    }
    done = build | {"field": "member.phone", "state": "whole"}
    mended = done | {"field": "member.badge", "conflicts": 77}
    answer = status_of("tokyo", "frankfurt") | {"builds": [build, done, mended]}
    deployment.answers("tokyo", lambda path, query: (200, answer))
    deployment.answers("frankfurt", lambda path, query: (200, status_of("frankfurt", "tokyo")))
    shown = CliRunner().invoke(app, ["status", "--config", deployment.config]).stdout
    rows = shown[shown.index("Fields that were declared later") :]
    for each in ("member.email", "waiting", "virginia", "4321", "member.badge", "77"):
        assert each in rows
    assert "member.phone" not in rows


def test_region_without_answer_is_shown_and_fails(deployment: Deployment) -> None:
    deployment.answers("tokyo", lambda path, query: (200, status_of("tokyo", "frankfurt", connected=False)))
    deployment.silent("frankfurt")
    result = CliRunner().invoke(app, ["status", "--config", deployment.config])
    assert result.exit_code == 1
    assert "no answer" in result.stdout
    assert "the link is cut" in result.stdout


def test_json_holds_every_region_and_nothing_else(deployment: Deployment) -> None:
    deployment.answers("tokyo", lambda path, query: (200, status_of("tokyo", "frankfurt")))
    deployment.silent("frankfurt")
    result = CliRunner().invoke(app, ["status", "--config", deployment.config, "--json"])
    regions = json.loads(result.stdout)["regions"]
    assert regions["tokyo"]["position"] == {"tokyo": 41, "frankfurt": 7}
    assert "nothing listens there" in regions["frankfurt"]["error"]
    assert result.exit_code == 1


def test_each_node_of_a_region_is_shown(deployment: Deployment) -> None:
    second = status_of("tokyo", "frankfurt")
    second["links"]["frankfurt"]["held"] = False
    second["position"] = {"tokyo": 40}
    deployment.answers("tokyo", lambda path, query: (200, status_of("tokyo", "frankfurt")))
    deployment.answers("tokyo", lambda path, query: (200, second))
    deployment.answers("frankfurt", lambda path, query: (200, status_of("frankfurt", "tokyo")))
    result = CliRunner().invoke(app, ["status", "--config", deployment.config])
    assert result.exit_code == 0
    assert "tokyo 1" in result.stdout
    assert "tokyo 2" in result.stdout
    assert "another node" in result.stdout
    assert "frankfurt 1" not in result.stdout
    deployment.silent("tokyo")
    result = CliRunner().invoke(app, ["status", "--config", deployment.config, "--json"])
    assert result.exit_code == 1
    found = json.loads(result.stdout)["regions"]
    assert found["tokyo"]["position"] == {"tokyo": 41, "frankfurt": 7}
    assert [node.get("position") for node in found["tokyo"]["nodes"]] == [
        {"tokyo": 41, "frankfurt": 7},
        {"tokyo": 40},
        None,
    ]
    assert "nodes" not in found["frankfurt"]


@pytest.mark.parametrize(
    ("clock", "shown"),
    [
        ({"error_ms": 13, "assumed": False, "agreed": True}, "13"),
        ({"error_ms": 500, "assumed": True, "agreed": True}, "500 assumed"),
        ({"error_ms": 9000, "assumed": True, "agreed": False}, "[yellow]disputed[/]"),
        (None, "12"),
    ],
)
def test_clock_is_shown_with_what_bounds_it(clock: dict[str, Any] | None, shown: str) -> None:
    answer = {**status_of("tokyo", "frankfurt"), "clock": clock}
    made = regions_table({"tokyo": Node("tokyo", 1, "http://tokyo", answer)})
    assert list(made.columns[-1].cells) == [shown]
