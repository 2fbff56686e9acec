"""Data in and out of running regions, by the command line, ended by `kill -9` at any moment."""

from __future__ import annotations

import gzip
import json
import signal
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from atoll.bulk.files import kind_of, open_input

from .cluster import Cluster, until
from .conftest import MakeCluster
from .processes import Command, atoll

ROWS = 6_000


def start(cluster: Cluster, *arguments: object) -> Command:
    return Command(cluster.folder, *arguments, "--config", "tokyo.toml", "--json")


def run(cluster: Cluster, *arguments: object, given: str = "") -> Any:
    """The summary of a command that must succeed."""
    done = atoll(cluster.folder, *arguments, "--config", "tokyo.toml", "--json", given=given)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def refused(cluster: Cluster, *arguments: object) -> str:
    done = atoll(cluster.folder, *arguments, "--config", "tokyo.toml")
    assert done.returncode == 2, done.stderr
    return done.stderr


def killed_often(
    cluster: Cluster, *arguments: object, done: Callable[[], int], seed: int, kills: int = 4, most: int = 12
) -> Any:
    """Kill the command each time that `done` has risen by some more, then let it end: its summary."""
    random = Random(seed)
    for _ in range(kills):
        goal = done() + random.randrange(1, most)
        with start(cluster, *arguments) as process:
            until(lambda goal=goal: done() >= goal, "some more is done")  # type: ignore[misc]
            process.kill()
            process.communicate()
            assert process.returncode == -signal.SIGKILL, "it ended before it was killed"
    return run(cluster, *arguments)


def written(cluster: Cluster) -> int:
    """Entries that tokyo has committed."""
    return int(cluster["tokyo"].position().get("tokyo", 0))


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def views(count: int, prefix: str) -> list[dict[str, Any]]:
    return [{"key": f"{prefix}/{n:05}", "seen": n % 7 + 1} for n in range(count)]


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz"])
def test_an_import_killed_at_any_moment_counts_each_row_once(make_cluster: MakeCluster, suffix: str) -> None:
    cluster = make_cluster().start()
    rows = views(ROWS, "k")
    write_rows(cluster.folder / f"views.{suffix}", rows)
    arguments = ("import", "views", f"views.{suffix}", "--region", "tokyo", "--chunk", 50)
    summary = killed_often(cluster, *arguments, done=lambda: written(cluster), seed=1)
    assert (summary["rows"], summary["rejected"]) == (ROWS, 0)
    # An entry for each chunk: none was committed twice, though some were sent twice.
    assert written(cluster) == ROWS // 50
    cluster.settled()
    run(cluster, "export", "views", "out.jsonl", "--region", "virginia", "--prefix", "k/")
    assert lines_of(cluster.folder / "out.jsonl") == rows
    assert run(cluster, *arguments)["already_imported"]


def test_strong_documents_are_imported_and_the_last_row_of_a_key_is_kept(make_cluster: MakeCluster) -> None:
    cluster = make_cluster().start()
    rows = [{"key": f"k{n % 20:02}", "balance": n} for n in range(120)]
    write_rows(cluster.folder / "accounts.jsonl", [*rows, {"key": "bad", "balance": "much"}])
    arguments = ("import", "account", "accounts.jsonl", "--region", "tokyo")
    assert "balance" in refused(cluster, *arguments)
    arguments = (*arguments, "--on-error", "skip", "--restart")
    summary = run(cluster, *arguments)
    assert (summary["rows"], summary["rejected"]) == (120, 1)
    for n in range(20):
        assert cluster["virginia"].get("account", f"k{n:02}").value == {"balance": 100 + n}
    cluster.settled()
    run(cluster, "export", "account", "out.jsonl", "--region", "frankfurt")
    assert lines_of(cluster.folder / "out.jsonl") == rows[-20:]


def test_increments_meanwhile_are_not_undone_by_what_is_sent_again(make_cluster: MakeCluster) -> None:
    cluster = make_cluster().start()
    rows = views(2_000, "k")
    write_rows(cluster.folder / "views.jsonl", rows)
    arguments = ("import", "views", "views.jsonl", "--region", "tokyo", "--chunk", 50)
    with start(cluster, *arguments) as process:
        until(lambda: cluster["tokyo"].position().get("tokyo", 0) >= 5, "some chunks are in")
        process.kill()
        process.communicate()
    there = [row["key"] for row in rows if cluster["tokyo"].get("views", row["key"]).status == 200]
    assert len(there) > 0
    for key in there:
        assert cluster["tokyo"].patch("views", key, {"$inc": {"seen": 100}}).status == 200
    run(cluster, *arguments)
    for row in rows:
        expected = row["seen"] + (100 if row["key"] in there else 0)
        assert cluster["tokyo"].get("views", row["key"]).value["seen"] == expected


def test_a_region_killed_under_an_import_loses_nothing(make_cluster: MakeCluster) -> None:
    cluster = make_cluster().start()
    rows = views(ROWS, "k")
    write_rows(cluster.folder / "views.jsonl", rows)
    arguments = ("import", "views", "views.jsonl", "--region", "tokyo", "--chunk", 100)
    with start(cluster, *arguments) as process:
        until(lambda: cluster["tokyo"].position().get("tokyo", 0) >= 10, "some chunks are in")
        cluster["tokyo"].kill()
        cluster["tokyo"].start()
        out, error = process.communicate()  # it waits for the region, and goes on
    assert process.returncode == 0, error
    assert json.loads(out)["rows"] == ROWS
    cluster["tokyo"].wait()
    assert cluster["tokyo"].position()["tokyo"] == ROWS // 100
    cluster.linked()
    cluster.settled()
    run(cluster, "export", "views", "out.jsonl", "--region", "frankfurt")
    assert lines_of(cluster.folder / "out.jsonl") == rows


def test_rows_go_to_the_regions_that_own_them(make_cluster: MakeCluster) -> None:
    cluster = make_cluster().start()
    names = list(cluster.regions)
    rows = [{"key": f"o{n:04}", "region": names[n % 3], "quantity": n} for n in range(900)]
    write_rows(cluster.folder / "orders.jsonl", rows)
    run(cluster, "import", "order", "orders.jsonl", "--region", "tokyo")
    for region in cluster:
        assert region.status()["counted"]["forwarded"] == 0
        assert region.position()[region.name] == 2
    cluster.settled()
    run(cluster, "export", "order", "out.jsonl")
    assert lines_of(cluster.folder / "out.jsonl") == rows
    # One that changes its owner is refused where it is; its neighbours are put.
    moved = [{"key": "o0000", "region": names[1]}, {"key": "o0001", "region": names[1], "quantity": 5}]
    write_rows(cluster.folder / "moved.jsonl", moved)
    summary = run(cluster, "import", "order", "moved.jsonl", "--on-error", "skip")
    assert (summary["rows"], summary["rejected"]) == (1, 1)
    (reject,) = lines_of(cluster.folder / "moved.jsonl.rejects.jsonl")
    assert (reject["line"], reject["key"], reject["error"]) == (1, "o0000", "ownership-fixed")
    assert json.loads(reject["row"]) == moved[0]
    assert cluster[names[1]].get("order", "o0001").value["quantity"] == 5


def test_bad_rows_are_put_aside_once_whatever_ends_the_run(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(["frankfurt", "tokyo"]).start()
    rows = [{"key": f"k{n:05}", "seen": "?" if n % 50 == 7 else n} for n in range(6_000)]
    write_rows(cluster.folder / "views.jsonl", rows)
    arguments = ("import", "views", "views.jsonl", "--on-error", "skip", "--chunk", 50, "--region", "tokyo")
    summary = killed_often(cluster, *arguments, done=lambda: written(cluster), seed=2)
    assert (summary["rows"], summary["rejected"]) == (5_880, 120)
    rejects = lines_of(cluster.folder / "views.jsonl.rejects.jsonl")
    assert [each["line"] for each in rejects] == [n + 1 for n in range(6_000) if n % 50 == 7]
    assert "seen: must be a valid integer" in rejects[0]["problem"]


def test_a_bad_row_stops_the_run_and_skipping_goes_on_from_there(shared: Cluster) -> None:
    rows = [{"key": f"stop/{n:05}", "seen": -1 if n != 730 else "x"} for n in range(1_000)]
    write_rows(shared.folder / "stop.jsonl", rows)
    told = refused(shared, "import", "views", "stop.jsonl", "--region", "tokyo", "--chunk", 100)
    assert "stop.jsonl: line 731: views: seen: must be a valid integer" in told
    assert "700 rows are in" in told
    summary = run(
        shared, "import", "views", "stop.jsonl", "--region", "tokyo", "--chunk", 100, "--on-error", "skip"
    )
    assert (summary["resumed_at"], summary["rows"], summary["rejected"]) == (700, 999, 1)


def test_a_file_that_changed_is_not_gone_on_with(shared: Cluster) -> None:
    rows: list[dict[str, Any]] = [{"key": f"changed/{n:05}", "seen": 1} for n in range(300)]
    write_rows(shared.folder / "changed.jsonl", [*rows, {"key": 1.5}])
    refused(shared, "import", "views", "changed.jsonl", "--chunk", 100)
    write_rows(shared.folder / "changed.jsonl", rows)
    assert "file changed; --restart" in refused(shared, "import", "views", "changed.jsonl", "--chunk", 100)
    assert run(shared, "import", "views", "changed.jsonl", "--chunk", 100, "--restart")["rows"] == 300


@pytest.mark.parametrize("name", ["out.jsonl", "out.csv.gz", "out.jsonl.zst", "out.parquet"])
def test_mergeable_fields_go_out_as_plain_values_and_come_back(shared: Cluster, name: str) -> None:
    prefix = name.replace(".", "-")
    carts = [
        {
            "key": f"{prefix}/{n}",
            "note": f"n{n}",
            "items": [f"a{n}", "b"],
            "labels": {"x": n},
        }
        for n in range(5)
    ]
    write_rows(shared.folder / "carts.jsonl", carts)
    run(shared, "import", "cart", "carts.jsonl", "--region", "tokyo", "--restart")
    shared["tokyo"].patch("cart", f"{prefix}/0", {"$add": {"items": ["c"]}})
    shared["tokyo"].delete("cart", f"{prefix}/4")
    run(shared, "export", "cart", name, "--prefix", f"{prefix}/", "--region", "tokyo", "--force")
    before = [shared["tokyo"].get("cart", f"{prefix}/{n}").value for n in range(4)]
    for n in range(5):
        shared["tokyo"].delete("cart", f"{prefix}/{n}")
    summary = run(shared, "import", "cart", name, "--region", "tokyo", "--restart")
    assert summary["rows"] == 4  # the deleted one was not exported
    assert [shared["tokyo"].get("cart", f"{prefix}/{n}").value for n in range(4)] == before
    assert before[0]["items"] == ["a0", "b", "c"]


def test_an_export_killed_at_any_moment_is_the_same_file(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(["frankfurt", "tokyo"]).start()
    rows = [{"key": f"p{n:03}", "name": "x" * 60_000} for n in range(400)]
    write_rows(cluster.folder / "people.jsonl", rows)
    run(cluster, "import", "profile", "people.jsonl")
    for name in ("out.jsonl", "out.csv.zst"):
        whole = run(cluster, "export", "profile", f"whole-{name}", "--region", "tokyo")
        summary = killed_often(
            cluster,
            *("export", "profile", name, "--region", "tokyo"),
            done=lambda name=name: saved(cluster.folder / f"{name}.shop.profile.export"),  # type: ignore[misc]
            seed=3,
            kills=1,
            most=2,
        )
        assert summary["resumed_at"] > 0
        assert summary["rows"] == whole["rows"] == 400
        assert content(cluster.folder / name) == content(cluster.folder / f"whole-{name}")
        assert not list(cluster.folder.glob(f"{name}.*"))


def content(path: Path) -> bytes:
    with open_input(str(path), kind_of(path.name).compression) as source:
        return source.stream.read()


def saved(checkpoint: Path) -> int:
    """How often the checkpoint was saved, up to what one run saves between two kills."""
    return checkpoint.read_bytes().count(b"}\n") if checkpoint.exists() else 0


def test_the_feed_from_an_exports_token_tells_what_came_since(shared: Cluster) -> None:
    shared["tokyo"].put("views", "token/a", {"seen": 1})
    token = run(shared, "export", "views", "token.jsonl", "--region", "tokyo")["token_from"]
    shared["tokyo"].put("views", "token/b", {"seen": 2})
    opened = shared["tokyo"].raw(
        f"GET /v1/changes?cursor={token} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode(),
        shut=True,
    )
    assert b"token/a" not in opened


def test_stdin_and_stdout_are_files_too(shared: Cluster) -> None:
    given = "".join(json.dumps({"key": f"pipe/{n}", "seen": n}) + "\n" for n in range(3))
    assert run(shared, "import", "views", "-", "--region", "tokyo", given=given)["rows"] == 3
    options = ("--prefix", "pipe/", "--where", "seen:gt:0", "--region", "tokyo", "-c", "tokyo.toml")
    done = atoll(shared.folder, "export", "views", "-", *options)
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["key"] for line in done.stdout.splitlines()] == ["pipe/1", "pipe/2"]
