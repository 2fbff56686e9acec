from __future__ import annotations

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from atoll import __version__
from atoll.cli.main import app


def test_help_names_every_command() -> None:
    result = CliRunner().invoke(app, ["--help"])
    assert result.exit_code == 0
    for command in ("demo", "init", "serve", "status", "verify", "conflicts", "region"):
        assert command in result.stdout


def test_version_is_the_packages() -> None:
    assert CliRunner().invoke(app, ["--version"]).stdout == f"atoll {__version__}\n"


def test_unknown_option_is_a_usage_error() -> None:
    assert CliRunner().invoke(app, ["status", "--nonsense"]).exit_code == 2


@pytest.mark.parametrize("command", ["serve", "status", "import", "backup", "region", "sagas"])
def test_commands_import_servers_and_clients_only_when_they_run(command: str) -> None:
    heavy = (
        "uvicorn",
        "aiohttp",
        "urllib3",
        "uvloop",
        "atoll.node.node",
        "atoll.demo.main",
        "atoll.simulation",
    )
    found = f"[name for name in {heavy!r} if name in sys.modules]"
    program = (
        f"import sys; sys.argv[1:] = ['{command}']; import atoll.cli.main; print({found}, file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stderr.strip() == "[]"
