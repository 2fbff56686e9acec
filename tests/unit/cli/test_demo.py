from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from atoll.cli.main import app
from atoll.demo.main import DemoOptions


@pytest.mark.parametrize("code", [0, 1])
def test_exit_code_is_the_proofs(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atoll.demo.main.run", lambda options: code)
    assert CliRunner().invoke(app, ["demo"]).exit_code == code


def test_options_reach_the_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[DemoOptions] = []
    monkeypatch.setattr("atoll.demo.main.run", lambda options: seen.append(options) or 0)
    arguments = ["demo", "--plain", "--keep", "--seconds", "9", "--seed", "4", "--folder", "x", "--json"]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert seen == [DemoOptions(seconds=9, seed=4, plain=True, keep=True, folder=Path("x"), as_json=True)]


def test_folder_in_use_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("", "utf-8")
    result = CliRunner().invoke(app, ["demo", "--folder", str(tmp_path)])
    assert result.exit_code == 2
    assert "is not empty" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
