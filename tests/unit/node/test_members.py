"""Regions that come and go, between nodes that meet over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tests.ports import free_ports

from atoll.causality.origin import of_region
from atoll.config.config import Config, load_config
from atoll.consensus.acceptor_set import AcceptorSet
from atoll.errors import ConfigError, RegionUnreachable
from atoll.node.listening import Listener
from atoll.node.node import Node
from atoll.replication.messages import PingCall, PingReply

NAMES = ("a", "b", "c")
ALL = (*NAMES, "d")


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Of four regions."""
    (tmp_path / "shop.py").write_text(
        "from atoll import Collection\nclass Note(Collection, consistency='session'):\n    text: str = ''\n",
        "utf-8",
    )
    regions = "".join(
        f'[regions.{name}]\nurl = "http://127.0.0.1:{port}"\n'
        for name, port in zip(ALL, free_ports(4), strict=True)
    )
    (tmp_path / "atoll.toml").write_text(
        f'[deployment]\nname = "shop"\napp = "shop.py"\n{regions}[emulate]\nrtt_ms = {{ "a-c" = 2 }}\n',
        "utf-8",
    )
    return load_config(tmp_path / "atoll.toml")


def only(config: Config, *names: str) -> Config:
    return replace(config, regions=tuple(config.region(name) for name in names))


async def until(found: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not found():  # noqa: ASYNC110 (a link's status is no event)
            await asyncio.sleep(0.05)


class Served:
    """Nodes that serve on their ports, and a client."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self._stacks: dict[str, AsyncExitStack] = {}

    async def __aenter__(self) -> Served:
        self.http = aiohttp.ClientSession()
        return self

    async def __aexit__(self, *failure: object) -> None:
        await self.http.close()
        for name in list(self.nodes):
            await self.stop(name)

    async def start(self, config: Config, *names: str) -> None:
        for name in names:
            listener = Listener.bound(config, name)
            stack = self._stacks[name] = AsyncExitStack()
            node = self.nodes[name] = await stack.enter_async_context(Node(config, name))
            listener.app = node.app
            await listener.start()
            stack.push_async_callback(listener.stop)
            stack.callback(node.app.closing.set)

    async def stop(self, name: str) -> None:
        del self.nodes[name]
        await self._stacks.pop(name).aclose()

    async def ask(
        self, name: str, method: str, path: str, body: Any = None, session: str | None = None
    ) -> tuple[int, Any, str]:
        headers = {} if session is None else {"atoll-session": session}
        url = self.nodes[name].settings.url + path
        async with self.http.request(method, url, json=body, headers=headers) as response:
            return response.status, await response.json(), response.headers.get("atoll-session", "")

    async def settled(self) -> None:
        async with asyncio.timeout(20):
            for one in self.nodes.values():
                for other in self.nodes.values():
                    await other.region.group_commit.progress.covered(dict(one.region.vector))


async def test_a_region_is_added_while_the_others_serve(config: Config) -> None:
    async with Served() as it:
        await it.start(only(config, "a", "b"), "a", "b")
        assert (await it.ask("a", "PUT", "/v1/note/before", {"text": "before"}))[0] == 200
        for name in "ab":
            await it.nodes[name].follow(only(config, *NAMES))
        await it.start(only(config, *NAMES), "c")
        status, _, token = await it.ask("c", "PUT", "/v1/note/k", {"text": "from c"})
        assert status == 200
        for name in "ab":
            status, found, answered = await it.ask(name, "GET", "/v1/note/k?max_wait=10", session=token)
            assert (status, found["value"]) == (200, {"text": "from c"})
            written = of_region(it.nodes["c"].region.vector, "c")
            assert written
            assert of_region(it.nodes[name].sessions.decode(answered), "c") == written
        await it.settled()
        assert (await it.ask("c", "GET", "/v1/note/before"))[1]["value"] == {"text": "before"}
        emulated = (await it.ask("a", "GET", "/admin/status"))[1]["emulated"]
        assert emulated["one_way_s"] == {"b": 0.0, "c": 0.001}


async def test_a_region_that_is_removed_is_no_longer_asked(config: Config) -> None:
    async with Served() as it:
        await it.start(only(config, *NAMES), *NAMES)
        token = (await it.ask("c", "PUT", "/v1/note/k", {"text": "from c"}))[2]
        await it.settled()
        for name in "ab":
            await it.nodes[name].follow(only(config, "a", "b"))
            with pytest.raises(RegionUnreachable, match="c is not a region of this deployment"):
                await it.nodes[name].region.site.ask("c", PingCall(), PingReply)
        assert (await it.ask("a", "GET", "/v1/note/k", session=token))[1]["value"] == {"text": "from c"}
        assert (await it.ask("a", "PUT", "/v1/note/more", {"text": "more"}, session=token))[0] == 200
        assert (await it.ask("a", "GET", "/admin/status"))[1]["emulated"]["one_way_s"] == {"b": 0.0}


async def test_a_region_that_goes_on_after_it_was_removed_is_told(config: Config) -> None:
    """It gets nothing more, not even by a stream that is open, and its status says why."""
    async with Served() as it:
        await it.start(only(config, *NAMES), *NAMES)
        links = it.nodes["c"].region.links.values()
        await until(lambda: all(link.status.connected for link in links))
        for name in "ab":
            await it.nodes[name].follow(only(config, "a", "b"))
        await until(lambda: not any(link.status.connected for link in links))
        told = "says that c was taken out of the deployment"
        await until(lambda: all(told in (link.status.last_error or "") for link in links))
        status, problem, _ = await it.ask("c", "PUT", "/v1/note/k", {"text": "for nobody"})
        assert status == 503
        assert told in problem["detail"]


async def test_a_region_that_has_left_is_known_after_a_restart(config: Config) -> None:
    """Its entries stay, tokens that name it count, and every request is answered."""
    async with Served() as it:
        await it.start(only(config, *NAMES), *NAMES)
        token = (await it.ask("c", "PUT", "/v1/note/k", {"text": "from c"}))[2]
        await it.settled()
        for name in NAMES:
            await it.stop(name)
        rest = only(config, "a", "b")
        await it.start(rest, "a", "b")
        for name in "ab":
            status, found, answered = await it.ask(name, "GET", "/v1/note/k", session=token)
            assert (status, found["value"]) == (200, {"text": "from c"})
            assert (await it.ask(name, "PUT", f"/v1/note/{name}", {"text": name}, session=answered))[0] == 200
            assert (await it.ask(name, "GET", "/health/serving"))[0] == 200
        await it.settled()
        beyond = it.nodes["a"].sessions.encode({"c": 1000})
        status, problem, _ = await it.ask("a", "GET", "/v1/note/k?max_wait=0", session=beyond)
        assert (status, problem["type"]) == (503, "urn:atoll:problem:token-not-reached")
        assert problem["left"] == ["c"]
        assert "c has left" in problem["detail"]
        await it.stop("b")
        await it.start(rest, "b")
        assert (await it.ask("b", "GET", "/v1/note/a", session=token))[1]["value"] == {"text": "a"}


async def test_a_file_that_a_node_cannot_follow_changes_nothing(config: Config) -> None:
    async with Served() as it:
        await it.start(config, "a")
        with pytest.raises(ConfigError, match="no region is called 'a'"):
            await it.nodes["a"].follow(only(config, "b", "c"))
        early = replace(config.region("d"), name="_d")
        with pytest.raises(ConfigError, match="would get another number"):
            await it.nodes["a"].follow(replace(config, regions=(early, *config.regions)))
        assert it.nodes["a"].region.regions == ALL
        assert it.nodes["a"].config is config


async def test_a_region_that_joins_later_takes_over_what_one_left(config: Config) -> None:
    async with Served() as it:
        await it.start(only(config, *NAMES), *NAMES)
        token = (await it.ask("c", "PUT", "/v1/note/k", {"text": "from c"}))[2]
        await it.settled()
        await it.stop("c")
        rest = only(config, "a", "b", "d")
        for name in "ab":
            await it.nodes[name].follow(rest)
        await it.start(rest, "d")
        await it.settled()
        status, found, _ = await it.ask("d", "GET", "/v1/note/k?max_wait=10", session=token)
        assert (status, found["value"]) == (200, {"text": "from c"})
        assert (await it.ask("d", "PUT", "/v1/note/d", {"text": "d"}, session=token))[0] == 200
        await it.settled()
        assert (await it.ask("a", "GET", "/v1/note/d"))[1]["value"] == {"text": "d"}


async def test_hosts_and_origins_that_are_allowed_follow_the_configuration(config: Config) -> None:
    alone = only(config, "a")
    open_to = {"allowed_hosts": ["atoll.example"], "allowed_origins": ["https://shop.example"]}
    section = alone.deployment.model_copy(update=open_to)
    page = {"host": "atoll.example", "origin": "https://shop.example"}
    async with Served() as it:
        await it.start(alone, "a")
        url = it.nodes["a"].settings.url + "/health/live"
        for expected, follow in ((421, None), (200, replace(alone, deployment=section)), (421, alone)):
            if follow is not None:
                await it.nodes["a"].follow(follow)
            async with it.http.get(url, headers=page) as response:
                assert response.status == expected


@pytest.fixture
def strong(config: Config) -> Config:
    """The same regions, with a collection that a majority decides."""
    config.app.write_text(
        "from atoll import Collection\nclass Purse(Collection, consistency='strong'):\n    amount: int = 0\n",
        "utf-8",
    )
    return config


def witnessed(config: Config, *names: str, by: str) -> Config:
    witness = replace(config.region(by), witness=True)
    return replace(only(config, *names), witnesses=(witness,))


async def test_acceptors_follow_the_files_one_at_a_time(strong: Config) -> None:
    """Files that name another region instead of one: first it comes, then the other one goes."""
    regions = enumerate(strong.regions)
    strong = replace(strong, regions=tuple(replace(region, number=number) for number, region in regions))
    to = only(strong, "a", "b", "d")
    async with Served() as it:
        await it.start(only(strong, *NAMES), *NAMES)
        await until(lambda: all(decides(it, *NAMES)))
        assert (await it.ask("c", "PUT", "/v1/purse/k", {"amount": 1}))[0] == 200
        await it.nodes["a"].follow(to)
        await it.start(to, "d")
        await until(lambda: (it.nodes["d"].region.voting.set or AcceptorSet(0, ())).epoch == 1)
        assert "a majority of them has to name it" in (it.nodes["d"].region.voting.joining or "")
        await it.nodes["b"].follow(to)
        await until(lambda: all(decides(it, "a", "b", "d")))
        found = it.nodes["d"].region.voting.set
        assert found == AcceptorSet(5, ("a", "b", "d"))  # d came, that was settled, c went, that was settled
        await it.stop("c")
        await it.stop("a")
        assert (await it.ask("d", "GET", "/v1/purse/k"))[1]["value"] == {"amount": 1}
        assert (await it.ask("d", "PATCH", "/v1/purse/k", {"$set": {"amount": 2}}))[0] == 200


def decides(it: Served, *names: str) -> Iterator[bool]:
    """Whether each of these regions counts all of them, and votes."""
    for name in names:
        found = it.nodes[name].region.status().registers
        assert found is not None
        yield found.voting and not found.changing and found.acceptors == sorted(names)


async def test_a_region_does_not_become_a_witness_while_it_is_there(strong: Config) -> None:
    async with Served() as it:
        await it.start(only(strong, *NAMES), "a")
        with pytest.raises(
            ConfigError, match="c cannot become a witness, or cease to be one; remove the region"
        ):
            await it.nodes["a"].follow(witnessed(strong, "a", "b", by="c"))
        await it.nodes["a"].follow(only(strong, "a", "b"))
        await it.nodes["a"].follow(witnessed(strong, "a", "b", by="c"))
        assert it.nodes["a"].region.membership.witnesses == ("c",)
        assert set(it.nodes["a"].region.links) == {"b"}


async def test_a_region_that_is_lost_for_good_is_replaced(strong: Config) -> None:
    """Of two regions and a witness: the new one takes over what the two that are left hold."""
    regions = enumerate(strong.regions)
    strong = replace(strong, regions=tuple(replace(region, number=number) for number, region in regions))
    first = witnessed(strong, "a", "b", by="d")
    async with Served() as it:
        await it.start(first, "a", "b", "d")
        await until(lambda: all(node.region.status().registers.voting for node in it.nodes.values()))  # type: ignore[union-attr]
        assert (await it.ask("a", "PUT", "/v1/purse/k", {"amount": 1}))[0] == 200
        await until(lambda: it.nodes["a"].region.vector == it.nodes["b"].region.vector)
        await it.stop("a")
        grown = witnessed(strong, *NAMES, by="d")
        for name in "bd":
            await it.nodes[name].follow(grown)
        await it.start(grown, "c")
        rest = witnessed(strong, "b", "c", by="d")
        for name in "bcd":
            await it.nodes[name].follow(rest)
        await until(lambda: all(decides(it, "b", "c", "d")))
        await until(it.nodes["c"].region.proposer.reaches_majority)
        await it.stop("b")
        async with asyncio.timeout(20):
            while (await it.ask("c", "PATCH", "/v1/purse/k", {"$set": {"amount": 2}}))[0] != 200:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        assert (await it.ask("c", "GET", "/v1/purse/k"))[1]["value"] == {"amount": 2}
