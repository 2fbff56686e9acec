"""Fixtures that run real regions. A cluster that is shared lives for one file of tests: idle ones take time, too."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from .cluster import Cluster

MakeCluster = Callable[..., Cluster]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three linked regions. A test takes keys of its own and leaves the links as they were."""
    cluster = Cluster(tmp_path_factory.mktemp("shared"))
    try:
        yield cluster.start()
    finally:
        cluster.close()


@pytest.fixture
def make_cluster(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[MakeCluster]:
    """Clusters for tests that harm their regions; not started yet."""
    made: list[Cluster] = []

    def make(*arguments: Any, **options: Any) -> Cluster:
        folder = tmp_path / f"cluster{len(made)}"
        folder.mkdir()
        made.append(Cluster(folder, *arguments, **options))
        request.node.clusters = made
        return made[-1]

    try:
        yield make
    finally:
        for cluster in made:
            cluster.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    report = yield
    if report.failed:
        clusters = [
            *getattr(item, "clusters", []),
            *filter(None, [getattr(item, "funcargs", {}).get("shared")]),
        ]
        report.sections += [("logs of the regions", cluster.logs()) for cluster in clusters]
    return report
