from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from atoll.cli.main import app


def test_project_is_written_and_the_next_step_told(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    result = CliRunner().invoke(app, ["init", str(folder), "--name", "orchard"])
    assert result.exit_code == 0
    assert f"cd {folder} && atoll serve --region tokyo" in result.stdout
    assert 'name = "orchard"' in (folder / "atoll.toml").read_text("utf-8")


def test_json_lists_what_was_written(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["init", str(tmp_path), "--json"])
    assert json.loads(result.stdout) == {
        "name": "shop",
        "written": [str(tmp_path / "shop.py"), str(tmp_path / "atoll.toml")],
    }


def test_existing_files_stay_and_it_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text("mine", "utf-8")
    result = CliRunner().invoke(app, ["init", str(tmp_path)])
    assert (result.exit_code, result.stdout) == (2, "")
    assert "already exists" in result.stderr
    assert (tmp_path / "shop.py").read_text("utf-8") == "mine"
