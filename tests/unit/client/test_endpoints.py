from __future__ import annotations

import math
from pathlib import Path

import pytest

from atoll.cli.init import write_project
from atoll.client.endpoints import distance_km, endpoints_of, nearest_first
from atoll.config.config import RegionConfig, load_config
from atoll.errors import ConfigError

TOKYO = RegionConfig("tokyo", "http://t", (35.68, 139.69))
FRANKFURT = RegionConfig("frankfurt", "http://f", (50.11, 8.68))
VIRGINIA = RegionConfig("virginia", "http://v", (38.95, -77.45))
NOWHERE = RegionConfig("nowhere", "http://n")


def test_file_and_config_name_the_same_regions(tmp_path: Path) -> None:
    write_project(tmp_path, "shop")
    path = tmp_path / "atoll.toml"
    assert endpoints_of(path) == endpoints_of(str(path)) == endpoints_of(load_config(path))
    assert {endpoint.name for endpoint in endpoints_of(path)} == {"tokyo", "frankfurt", "virginia"}


def test_mappings_are_taken_alone_or_in_a_list() -> None:
    urls = {"tokyo": "http://127.0.0.1:8401/", "frankfurt": "https://f.example"}
    expected = (
        RegionConfig("tokyo", "http://127.0.0.1:8401"),
        RegionConfig("frankfurt", "https://f.example"),
    )
    assert endpoints_of(urls) == expected
    assert endpoints_of([{name: url} for name, url in urls.items()]) == expected


@pytest.mark.parametrize(
    "urls",
    [
        {},
        {"Tokyo": "http://t"},
        {"tokyo": "t:80"},
        {"tokyo": "ftp://t"},
        {"tokyo": "http://t/path"},
        {"tokyo": "http://u:p@t"},
        {"tokyo": "http://t:99999"},
        {"tokyo": None},
    ],
)
def test_what_is_no_region_is_refused(urls: dict[str, str]) -> None:
    with pytest.raises(ConfigError):
        endpoints_of(urls)


def test_distance_is_along_the_surface() -> None:
    assert distance_km(TOKYO, FRANKFURT) == pytest.approx(9_350, rel=0.02)
    assert distance_km(TOKYO, FRANKFURT) == distance_km(FRANKFURT, TOKYO)
    assert distance_km(TOKYO, NOWHERE) == math.inf


def test_others_follow_by_distance() -> None:
    ordered = nearest_first((NOWHERE, TOKYO, VIRGINIA, FRANKFURT), "frankfurt")
    assert ordered == (FRANKFURT, VIRGINIA, TOKYO, NOWHERE)


def test_region_without_location_can_be_near() -> None:
    assert nearest_first((TOKYO, FRANKFURT, NOWHERE), "nowhere") == (NOWHERE, TOKYO, FRANKFURT)


def test_misspelt_near_is_told() -> None:
    with pytest.raises(ConfigError, match="did you mean tokyo"):
        nearest_first((TOKYO, FRANKFURT), "tokio")
