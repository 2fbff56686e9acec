from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench.documents import document_body
from bench.load import address, connected, phase
from bench.peers import NotMeasured, etcd
from bench.peers.etcd import Cluster, get_document, put_accounts, put_document, serving
from bench.peers.grpc_connection import FAILED, OK, GrpcConnection, Unary

NAMES = ("one", "two", "three")
RTT_MS = {"one-two": 40.0, "one-three": 40.0, "two-three": 40.0}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    try:
        with serving(tmp_path_factory.mktemp("peers") / "etcd", NAMES, RTT_MS, print, install=True) as found:
            yield found
    except NotMeasured as reason:
        pytest.skip(str(reason))


async def asked(url: str, *requests: Unary) -> tuple[list[int], Counter[int], bytes]:
    host, port = address(url)
    (connection,) = await connected(host, port, 1, GrpcConnection)
    took_ns, statuses = await phase([connection], [each.encode(f"{host}:{port}") for each in requests])
    connection.close()
    assert isinstance(connection, GrpcConnection)
    return took_ns, statuses, connection.answer


async def test_what_one_member_was_told_another_one_reads(cluster: Cluster) -> None:
    assert cluster.label.startswith("etcd 3")
    took_ns, statuses, _ = await asked(cluster.members["one"].url, *map(put_document, range(20)))
    assert statuses == {OK: 20}
    assert min(took_ns) >= 40_000_000, "a majority is one round trip away"
    took_ns, statuses, answer = await asked(cluster.members["two"].url, get_document(7))
    assert statuses == {OK: 1}
    assert document_body(7) in answer


async def test_what_cannot_be_carried_out_is_no_success(cluster: Cluster) -> None:
    unknown = Unary("/etcdserverpb.KV/Nothing", b"")
    _, statuses, _ = await asked(cluster.members["one"].url, unknown, put_document(1), unknown)
    assert statuses == {FAILED: 2, OK: 1}


async def test_a_transaction_writes_two_accounts(cluster: Cluster) -> None:
    _, statuses, _ = await asked(cluster.members["one"].url, put_accounts(1))
    assert statuses == {OK: 1}
    _, _, answer = await asked(
        cluster.members["two"].url, Unary("/etcdserverpb.KV/Range", b"\x0a\x09account-3")
    )
    assert b"account-3" in answer


async def test_the_others_go_on_without_their_leader(cluster: Cluster) -> None:
    for leader in ("two", "three"):
        cluster.lead(leader)
        assert cluster.leader() == leader
    cluster.members["three"].kill()
    cluster.lead("one")
    _, statuses, _ = await asked(cluster.members["two"].url, put_document(3))
    assert statuses == {OK: 1}
    cluster.members["three"].start()
    cluster.members["three"].wait()
    _, _, answer = await asked(cluster.members["three"].url, get_document(3))
    assert document_body(3) in answer


def test_without_the_program_there_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(etcd, "_CACHE", tmp_path / "cache")
    for install, reason in ((False, "not here yet"), (True, "no apt-get")):
        with (
            pytest.raises(NotMeasured, match=reason),
            serving(tmp_path / "etcd", NAMES, {}, print, install=install),
        ):
            pass


def test_a_download_that_fails_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("apt-get", "dpkg-deb"):
        program = tmp_path / name
        program.write_text("#!/bin/sh\necho no such package >&2\nexit 100\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(etcd, "_CACHE", tmp_path / "cache")
    with (
        pytest.raises(NotMeasured, match="no such package"),
        serving(tmp_path / "etcd", NAMES, {}, print, install=True),
    ):
        pass
