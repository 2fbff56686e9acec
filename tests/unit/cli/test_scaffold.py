from __future__ import annotations

from pathlib import Path

import pytest

from atoll.cli.init import write_project
from atoll.config.config import load_config
from atoll.errors import ConfigError
from atoll.schema import load_application


def test_project_works_as_written(tmp_path: Path) -> None:
    paths = write_project(tmp_path / "new", "orchard")
    assert [path.name for path in paths] == ["shop.py", "atoll.toml"]
    config = load_config(tmp_path / "new" / "atoll.toml")
    assert (config.name, config.region_names) == ("orchard", ("frankfurt", "tokyo", "virginia"))
    assert [config.region(name).address()[1] for name in ("tokyo", "frankfurt", "virginia")] == [
        8401,
        8402,
        8403,
    ]
    assert config.rtt_ms("tokyo", "frankfurt") == 230


def test_declarations_of_the_project_compile(tmp_path: Path) -> None:
    write_project(tmp_path, "shop")
    application = load_application(load_config(tmp_path / "atoll.toml").app)
    assert list(application.collections) == [
        "account",
        "inventory",
        "order",
        "profile",
        "cart",
        "post",
        "page_view",
        "note",
    ]


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "atoll.toml").write_text("mine")
    with pytest.raises(ConfigError, match="already exists"):
        write_project(tmp_path, "shop")
    assert [path.name for path in tmp_path.iterdir()] == ["atoll.toml"]


@pytest.mark.parametrize("name", ["", "My Shop", "1a", 'a"b'])
def test_name_is_checked(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be a deployment's name"):
        write_project(tmp_path / "new", name)
    assert not (tmp_path / "new").exists()


def test_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written to"):
        write_project(tmp_path / "file" / "new", "shop")
