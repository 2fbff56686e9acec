from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from atoll.config.config import Config, load_config
from atoll.config.deployment_key import deployment_key
from atoll.errors import ConfigError


@pytest.fixture
def config(tmp_path: Path) -> Config:
    path = tmp_path / "atoll.toml"
    path.write_text('[deployment]\nname = "s"\napp = "s.py"\n[regions.a]\nurl = "http://a:1"\n')
    return load_config(path)


def test_file_comes_before_environment(config: Config) -> None:
    given = replace(config, deployment=config.deployment.model_copy(update={"key": "from the file, long"}))
    assert deployment_key(given, {"ATOLL_KEY": "from the environment"}) == b"from the file, long"
    assert deployment_key(config, {"ATOLL_KEY": "from the environment"}) == b"from the environment"


def test_short_secret_is_refused(config: Config) -> None:
    with pytest.raises(ConfigError, match="ATOLL_KEY is shorter than 16"):
        deployment_key(config, {"ATOLL_KEY": "short"})


def test_key_is_made_once_and_only_for_its_owner(config: Config) -> None:
    key = deployment_key(config, {})
    path = config.data / "deployment.key"
    assert len(key) >= 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert deployment_key(config, {}) == key
    assert [item.name for item in config.data.iterdir()] == ["deployment.key"]


def test_regions_that_start_at_once_agree(config: Config) -> None:
    with ThreadPoolExecutor(16) as pool:
        keys = set(pool.map(lambda _: deployment_key(config, {}), range(64)))
    assert len(keys) == 1
    assert [item.name for item in config.data.iterdir()] == ["deployment.key"]


def test_damaged_key_file_is_not_replaced(config: Config) -> None:
    config.data.mkdir()
    (config.data / "deployment.key").write_bytes(b"")
    with pytest.raises(ConfigError, match="restore it"):
        deployment_key(config, {})


def test_unwritable_folder_is_named(config: Config) -> None:
    config.data.write_text("a file where the folder should be")
    with pytest.raises(ConfigError, match="cannot be read or created"):
        deployment_key(config, {})
