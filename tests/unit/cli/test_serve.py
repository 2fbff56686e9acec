from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from atoll.cli.init import write_project
from atoll.cli.main import app
from atoll.config.config import Config
from atoll.errors import StoreLocked


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Path]:
    """`serve` takes the signals over, and the tests give them back."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    write_project(tmp_path, "orchard")
    try:
        yield tmp_path
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def served(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Config, str]]:
    calls: list[tuple[Config, str]] = []

    def run(config: Config, region: str, ready: Callable[[], None], node: int) -> None:
        calls.append((config, region))
        ready()

    monkeypatch.setattr("atoll.node.serving.run", run)
    return calls


def test_served_region_tells_its_url_and_folder(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = served(monkeypatch)
    result = CliRunner().invoke(app, ["serve", "--region", "tokyo", "--config", str(project / "atoll.toml")])
    assert result.exit_code == 0
    assert "http://127.0.0.1:8401" in result.stdout
    assert str(project / "data" / "tokyo") in result.stdout
    assert [(config.app.name, region) for config, region in calls] == [("shop.py", "tokyo")]


def test_application_on_the_command_line_prevails(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = served(monkeypatch)
    arguments = [
        "serve",
        str(project / "other.py"),
        "-r",
        "tokyo",
        "-c",
        str(project / "atoll.toml"),
        "--json",
    ]
    result = CliRunner().invoke(app, arguments)
    assert json.loads(result.stdout)["app"] == str(project / "other.py")
    assert json.loads(result.stdout)["pid"] == os.getpid()
    assert calls[0][0].app == project / "other.py"


def test_unknown_region_is_a_usage_error(project: Path) -> None:
    result = CliRunner().invoke(app, ["serve", "-r", "tokio", "-c", str(project / "atoll.toml")])
    assert (result.exit_code, result.stdout) == (2, "")
    assert "did you mean tokyo?" in result.stderr


def test_missing_file_is_a_usage_error(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["serve", "-r", "tokyo", "-c", str(tmp_path / "atoll.toml")])
    assert result.exit_code == 2
    assert "atoll init" in result.stderr


def test_locked_store_is_a_failure(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(config: Config, region: str, ready: Callable[[], None], node: int) -> None:
        raise StoreLocked("another process holds it")

    monkeypatch.setattr("atoll.node.serving.run", run)
    result = CliRunner().invoke(app, ["serve", "-r", "tokyo", "-c", str(project / "atoll.toml")])
    assert (result.exit_code, result.stderr) == (1, "atoll: another process holds it\n")


def test_node_that_is_not_there_is_a_usage_error(project: Path) -> None:
    result = CliRunner().invoke(
        app, ["serve", "-r", "tokyo", "--node", "2", "-c", str(project / "atoll.toml")]
    )
    assert (result.exit_code, result.stdout) == (2, "")
    assert "node 2 is not one of them" in result.stderr
