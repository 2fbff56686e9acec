from __future__ import annotations

from pathlib import Path

import pytest
import redis
from bench.peers import NotMeasured, redis_server
from bench.peers.redis_server import read_singly, serving, write_singly


async def test_writes_are_durable_and_read_back(tmp_path: Path) -> None:
    with serving(tmp_path / "redis") as served:
        assert served.label.startswith("Redis ")
        assert (await write_singly(served.port, 4, 20)).per_second > 0
        assert (await read_singly(served.port, 20, 20)).p50_ms > 0
        with redis.Redis(port=served.port) as client:
            assert client.dbsize() == 20
            assert client.config_get("append*")["appendfsync"] == "always"
            assert client.config_get("append*")["appendonly"] == "yes"
    with pytest.raises(redis.ConnectionError), redis.Redis(port=served.port) as client:
        client.ping()


def test_without_a_server_there_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(redis_server, "find_spec", lambda name: None)
    with pytest.raises(NotMeasured, match="apt-get install redis-server"), serving(tmp_path):
        pass
