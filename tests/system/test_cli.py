from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.ports import free_ports

from .cluster import Cluster, until

pytestmark = pytest.mark.xdist_group("shared")

PATIENCE_S = 60.0


def atoll(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "atoll.cli.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)


def answered(cluster: Cluster, *arguments: str) -> Any:
    run = atoll(*arguments, "--config", str(next(iter(cluster)).config), "--json")
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def test_status_shows_every_regions_links(shared: Cluster) -> None:
    regions = answered(shared, "status")["regions"]
    assert set(regions) == {"frankfurt", "tokyo", "virginia"}
    assert all(link["connected"] for region in regions.values() for link in region["links"].values())


def test_verify_finds_equal_regions_equal(shared: Cluster) -> None:
    shared["tokyo"].put("profile", "verify", {"name": "Ann"})
    shared.settled()
    found = answered(shared, "verify", "--region", "virginia")
    assert (found["region"], found["equal"]) == ("virginia", True)
    assert found["collections"]["profile"]["documents"] >= 1


def test_verify_names_what_differs_while_a_link_is_cut(shared: Cluster) -> None:
    with shared.apart():
        shared["tokyo"].put("profile", "apart", {"name": "Ann"})
        run = atoll("verify", "--config", str(shared["tokyo"].config), "--region", "tokyo", "--wait", "0")
        assert run.returncode == 1
        assert "was not compared" in run.stdout


def test_conflicts_lists_what_two_regions_did_at_once(shared: Cluster) -> None:
    with shared.apart():
        shared["tokyo"].put("profile", "both", {"name": "Tokyo"})
        shared["frankfurt"].put("profile", "both", {"name": "Frankfurt"})
    found = answered(shared, "conflicts", "--collection", "profile", "--key", "both")
    assert [item["kind"] for item in found["items"]] == ["insert_exists"]
    assert found["items"][0]["losing"]["value"]["name"] == "Tokyo"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """What `atoll init` writes, on ports that are free."""
    assert atoll("init", str(tmp_path / "shop")).returncode == 0
    path = tmp_path / "shop" / "atoll.toml"
    text = path.read_text("utf-8")
    ports = dict(zip(("8401", "8402", "8403"), map(str, free_ports(3)), strict=True))
    path.write_text(re.sub("|".join(ports), lambda found: ports[found[0]], text), "utf-8")
    return path


def serving(project: Path) -> subprocess.Popen[str]:
    arguments = [
        "serve",
        str(project.with_name("shop.py")),
        "--region",
        "tokyo",
        "--config",
        str(project),
        "--json",
    ]
    return subprocess.Popen(
        [sys.executable, "-m", "atoll.cli.main", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_region_of_a_new_project_serves_until_a_signal(project: Path, number: signal.Signals) -> None:
    process = serving(project)
    try:
        told = json.loads("".join(iter(process.stdout.readline, "}\n")) + "}")  # type: ignore[union-attr]
        assert told["pid"] == process.pid

        def serves() -> dict[str, Any] | None:
            found: dict[str, Any] = json.loads(atoll("status", "--config", str(project), "--json").stdout)
            return found if found["regions"]["tokyo"]["serving"] else None

        status = until(serves, "serving, though no peer can be asked whether it is new")
        assert "error" in status["regions"]["frankfurt"]
        process.send_signal(number)
        _, errors = process.communicate(timeout=PATIENCE_S)
        assert (process.returncode, errors) == (0, "")
        assert not list(Path(told["data"]).glob("*-wal"))  # closed in order, not torn down
    finally:
        process.kill()
        process.communicate()


def test_second_process_on_the_same_data_is_refused_in_one_line(project: Path) -> None:
    process = serving(project)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        text = project.read_text("utf-8")
        other = project.with_name("other.toml")
        old = next(line for line in text.splitlines() if line.startswith("url"))
        other.write_text(text.replace(old, f'url = "http://127.0.0.1:{free_ports(1)[0]}"', 1), "utf-8")
        run = atoll("serve", "--region", "tokyo", "--config", str(other))
        assert (run.returncode, run.stdout) == (1, ""), run.stderr
        assert run.stderr.startswith("atoll: ")
        assert run.stderr.count("\n") == 1
    finally:
        process.kill()
        process.communicate()
