from __future__ import annotations

import contextlib
import os
import resource
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.ports import free_ports

from .cluster import PATIENCE_S, Region, until
from .conftest import MakeCluster
from .processes import Process

pytestmark = pytest.mark.xdist_group("faults")
LARGE = {"name": "x" * 100_000}


def ended(region: Region, process: Process | subprocess.Popen[bytes]) -> str:
    """What a process that must not run says when it ends."""
    assert process.wait(PATIENCE_S) != 0
    return region.log.read_text()


@contextlib.contextmanager
def mounted(folder: Path, *arguments: str) -> Iterator[None]:
    """Skips where the test may not mount."""
    command = ["mount", *arguments, str(folder)]
    if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting needs privileges")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def fill(region: Region) -> int:
    """Write until the disk takes no more; returns how many writes it took."""
    for number in range(400):
        answer = region.put("profile", f"fill-{number}", LARGE)
        if answer.status != 200:
            assert (answer.status, answer.problem) == (507, "store-unwritable"), answer.body
            return number
    raise AssertionError("the disk never filled")


def test_one_process_at_a_time_opens_a_database(make_cluster: MakeCluster) -> None:
    cluster = make_cluster().start()
    tokyo = cluster["tokyo"]
    assert tokyo.process is not None
    (other,) = free_ports(1)
    tokyo.config.write_text(tokyo.config.read_text().replace(f":{tokyo.port}", f":{other}"))
    said = ended(tokyo, tokyo.launch())
    assert "store-locked" in said
    assert str(tokyo.process.pid) in said
    assert tokyo.put("profile", "k", {"name": "Ann"}).status == 200


def test_a_port_in_use_is_named(make_cluster: MakeCluster) -> None:
    tokyo = make_cluster()["tokyo"]
    with socket.create_server(("127.0.0.1", tokyo.port)):
        said = ended(tokyo, tokyo.launch())
    assert f"127.0.0.1:{tokyo.port} is in use" in said
    assert "tokyo.toml" in said
    assert not tokyo.data.exists()


def test_a_configuration_error_names_file_line_and_fix(make_cluster: MakeCluster) -> None:
    tokyo = make_cluster()["tokyo"]
    text = tokyo.config.read_text()
    tokyo.config.write_text(text.replace("[deployment]", "[deployment]\nnmae = 3"))
    said = ended(tokyo, tokyo.launch())
    assert "tokyo.toml:2" in said
    assert "did you mean name?" in said


def test_a_file_that_may_not_grow_stops_writes_not_reads(make_cluster: MakeCluster) -> None:
    cluster = make_cluster().start()
    frankfurt, tokyo, _ = cluster
    assert tokyo.process is not None
    tokyo.put("profile", "before", {"name": "Ann"})
    cluster.settled()
    before = tokyo.digest()
    limits = resource.prlimit(tokyo.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(tokyo.process.pid, resource.RLIMIT_FSIZE, (8192, limits[1]))
    for _ in range(3):
        refused = tokyo.put("profile", "full", LARGE)
        assert (refused.status, refused.problem) == (507, "store-unwritable")
    assert tokyo.get("profile", "before").status == 200
    assert tokyo.request("GET", "/v1/profile").status == 200
    assert tokyo.digest() == before
    assert tokyo.request("GET", "/health/live").status == 200
    assert tokyo.request("GET", "/health/serving").status == 503
    frankfurt.put("profile", "elsewhere", {"name": "Eve"})
    resource.prlimit(tokyo.process.pid, resource.RLIMIT_FSIZE, limits)
    assert tokyo.put("profile", "after", LARGE).status == 200
    cluster.settled()
    assert tokyo.get("profile", "elsewhere").status == 200
    assert tokyo.request("GET", "/health/serving").status == 200
    assert tokyo.digest() == frankfurt.digest()


def test_a_full_disk_stops_writes_until_there_is_room(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(("frankfurt", "tokyo", "virginia"))
    tokyo = cluster["tokyo"]
    tokyo.data.mkdir(parents=True)
    with mounted(tokyo.data, "-t", "tmpfs", "-o", "size=12m", "tmpfs"), contextlib.closing(cluster):
        ballast = tokyo.data / "ballast"
        # Half of it: a checkpoint needs as much again as the log holds.
        ballast.write_bytes(bytes(6 << 20))
        cluster.start()
        taken = fill(tokyo)
        assert taken > 0
        assert tokyo.get("profile", f"fill-{taken - 1}").status == 200
        assert tokyo.get("profile", f"fill-{taken}").status == 404
        assert "full" in tokyo.put("profile", "k", LARGE).json["detail"]
        ballast.unlink()
        until(lambda: tokyo.request("GET", "/health/serving").status == 200, "it serves again by itself")
        assert tokyo.put("profile", "room", {"name": "Ann"}).status == 200
        cluster.settled()
        assert tokyo.digest() == cluster["virginia"].digest()


def test_a_full_disk_survives_a_crash(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(("frankfurt", "tokyo", "virginia"))
    tokyo = cluster["tokyo"]
    tokyo.data.mkdir(parents=True)
    with mounted(tokyo.data, "-t", "tmpfs", "-o", "size=4m", "tmpfs"), contextlib.closing(cluster):
        tokyo.start()
        tokyo.wait()
        taken = fill(tokyo)
        tokyo.kill()
        tokyo.start()
        tokyo.wait()
        assert tokyo.get("profile", f"fill-{taken - 1}").status == 200
        assert tokyo.get("profile", f"fill-{taken}").status == 404


def test_a_read_only_folder_still_serves_reads(make_cluster: MakeCluster) -> None:
    cluster = make_cluster()
    tokyo = cluster["tokyo"]
    tokyo.start()
    tokyo.wait().put("profile", "kept", {"name": "Ann"})
    tokyo.stop()
    read_only = ["mount", "-o", "remount,ro,bind", str(tokyo.data)]
    with mounted(tokyo.data, "--bind", str(tokyo.data)), contextlib.closing(cluster):
        assert subprocess.run(read_only, capture_output=True, check=False).returncode == 0
        tokyo.start()
        tokyo.wait()
        assert tokyo.get("profile", "kept").value["name"] == "Ann"
        assert tokyo.request("GET", "/v1/profile").json["items"]
        refused = tokyo.put("profile", "kept", {"name": "Eve"})
        assert (refused.status, refused.problem) == (507, "store-unwritable")
        assert "read-only" in refused.json["detail"]
        assert tokyo.post("/v1/ids/uuid4").status == 200
    tokyo.start()
    tokyo.wait()
    assert tokyo.put("profile", "kept", {"name": "Eve"}).status == 200
