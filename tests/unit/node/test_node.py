from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from pathlib import Path

import pytest

from atoll.config.config import Config, load_config
from atoll.documents.mutation import Write, put_of
from atoll.errors import ConfigError, StoreLocked
from atoll.node.listening import Listener
from atoll.node.node import Node, open_store, options_of, unix_ms
from atoll.schema import Collection, key_ranges
from atoll.schema.application import application_of
from atoll.store.postgresql.store import PostgresStore

TOML = """
[deployment]
name = "shop"
app = "shop.py"
max_clock_offset_ms = 250
audit_days = 3
audit_max = 1000
idempotency_hours = 2
[deployment.limits]
document_bytes = 2048
[regions.a]
url = "http://127.0.0.1:1"
[regions.b]
url = "http://127.0.0.1:2"
[emulate]
rtt_ms = { "a-b" = 90 }
"""


@pytest.fixture
def config(tmp_path: Path) -> Config:
    (tmp_path / "shop.py").write_text(
        "from atoll import Collection\nclass Note(Collection):\n    text: str = ''\n", "utf-8"
    )
    (tmp_path / "atoll.toml").write_text(TOML, "utf-8")
    return load_config(tmp_path / "atoll.toml")


def test_what_the_file_says_becomes_the_options(config: Config) -> None:
    options = options_of(config)
    assert (options.max_clock_offset_ms, options.document_bytes) == (250, 2048)
    assert (options.audit_s, options.audit_most) == (3 * 86_400, 1000)
    assert options.idempotency_s == 7200


async def test_a_node_is_put_together_from_its_file(config: Config) -> None:
    async with Node(config, "a") as node:
        assert node.region.name == "a"
        assert set(node.region.links) == {"b"}
        assert node.emulation.one_way_s("b") == 0.045
        assert list(node.application.collections) == ["note"]
        assert node.region.application.collections["note"].limits.document_bytes == 2048


async def test_regions_of_a_deployment_understand_each_others_tokens(config: Config) -> None:
    async with Node(config, "a") as one, Node(config, "b") as other:
        assert other.sessions.decode(one.sessions.encode({"a": 3, "b": 4})) == {"a": 3, "b": 4}


async def test_a_second_node_on_the_same_data_fails_at_once(config: Config) -> None:
    async with Node(config, "a"):
        with pytest.raises(StoreLocked):
            Node(config, "a")
    async with Node(config, "a"):
        pass


def test_a_placement_in_a_region_that_is_not_there_is_refused(config: Config) -> None:
    class Letter(Collection, placement=key_ranges({"": "a", "m": "mars"})):
        text: str = ""

    with pytest.raises(ConfigError, match="places documents in mars"):
        Node(config, "a", application=application_of(Letter))
    assert not config.region_data("a").exists()


def test_a_file_that_is_missing_is_told(config: Config) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        Node(replace(config, app=config.app.with_name("other.py")), "a")
    with pytest.raises(ConfigError, match="no region is called 'c'"):
        Node(config, "c")


def test_the_clock_counts_unix_milliseconds() -> None:
    assert abs(unix_ms() - time.time() * 1000) < 10_000


async def test_stamps_and_numbers_go_on_after_a_restart(config: Config) -> None:
    async with Node(config, "a") as node:
        write = Write((put_of(node.region.rules["note"], "k", b"{}"),))
        first = (await node.region.write(write)).receipt
    async with Node(config, "a") as node:
        again = (await node.region.write(write)).receipt
    assert again.seq == first.seq + 1
    assert again.stamp > first.stamp


def test_a_url_chooses_postgresql(config: Config) -> None:
    region = replace(config.region("a"), store="postgresql://shop:hunter2@127.0.0.1:1/shop")
    store = open_store(replace(config, regions=(region, config.region("b"))), "a")
    assert isinstance(store, PostgresStore)
    assert store.database.schema == "atoll_a"
    assert store.database.where == "postgresql://shop@127.0.0.1:1/shop (schema atoll_a)"


def test_a_region_does_not_listen_where_tls_is_expected(config: Config) -> None:
    for placed in (
        replace(config.region("a"), url="https://127.0.0.1:1"),
        replace(config.region("a"), nodes=("https://127.0.0.1:1",)),
    ):
        with pytest.raises(ConfigError, match=r"serves plain HTTP.*nodes = "):
            Listener.bound(replace(config, regions=(placed,)), "a")
    behind = replace(config.region("a"), url="https://a.example", nodes=("http://127.0.0.1:0",))
    Listener.bound(replace(config, regions=(behind,)), "a").close()


async def test_what_holds_the_event_loop_is_measured(config: Config) -> None:
    async with Node(config, "a") as node:
        await asyncio.sleep(0)
        time.sleep(0.3)  # noqa: ASYNC251 - it holds the loop
        while node.region.status().loop_stall_s < 0.2:  # noqa: ASYNC110 - until the loop has come round
            await asyncio.sleep(0)
