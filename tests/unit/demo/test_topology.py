from __future__ import annotations

from pathlib import Path

import aiohttp
import pytest

from atoll.config.config import load_config
from atoll.demo.topology import REGIONS, Topology, free_ports, one_way_s
from atoll.errors import AtollError, ConfigError
from atoll.schema import load_application


def test_files_make_a_valid_deployment(tmp_path: Path) -> None:
    topology = Topology(tmp_path / "demo")
    config = load_config(topology.config)
    assert set(config.region_names) == set(REGIONS)
    assert {region.name: region.url for region in config.regions} == topology.urls
    assert [config.rtt_ms(*pair) for pair in (("tokyo", "frankfurt"), ("tokyo", "virginia"))] == [230, 150]
    assert config.rtt_ms("frankfurt", "virginia") == 90


def test_shop_declares_a_collection_for_each_strategy(tmp_path: Path) -> None:
    application = load_application(load_config(Topology(tmp_path).config).app)
    resolves = {schema.policy.resolve for schema in application.collections.values()}
    assert resolves == {"lww", "fww", "merge", "manual", "custom"}
    assert application.collection("inventory").policy.fallback == "escrow"


def test_emulated_delays_are_half_the_round_trips() -> None:
    assert one_way_s("tokyo", "frankfurt") == one_way_s("frankfurt", "tokyo") == 0.115


def test_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("", "utf-8")
    with pytest.raises(ConfigError, match="not empty"):
        Topology(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", "utf-8")
    with pytest.raises(ConfigError, match="cannot write there"):
        Topology(tmp_path / "file")


def test_ports_differ() -> None:
    assert len(set(free_ports(8))) == 8


async def test_region_that_ends_at_once_is_reported_with_its_log(tmp_path: Path) -> None:
    topology = Topology(tmp_path)
    topology.config.write_text("[deployment]\n", "utf-8")
    topology.start("tokyo")
    try:
        async with aiohttp.ClientSession() as http:
            with pytest.raises(AtollError, match=r"tokyo did not start: atoll: .*atoll\.toml"):
                await topology.ready(http, "tokyo")
    finally:
        topology.stop()
    assert not topology.alive("tokyo")
