from __future__ import annotations

import pytest

from atoll import errors
from atoll.client import ClientOptions, Request
from atoll.client.aiohttp_transport import AiohttpTransport
from atoll.client.nodes import NodeUrls
from atoll.client.urllib3_transport import Urllib3Transport

from .peer import BREAK, closed_port, http, peer

GET = Request("tokyo", "GET", "/v1/a/b", "", {}, b"", 5.0)


def test_nodes_take_turns_as_they_fail() -> None:
    urls = NodeUrls({"tokyo": ["one", "two", "three"], "oregon": "four"})
    urls.leave("tokyo", "one")
    urls.leave("tokyo", "one")  # somebody has turned to the next one already
    assert (urls.of("tokyo"), urls.count("tokyo"), urls.of("oregon")) == ("two", 3, "four")
    urls.leave("oregon", "four")
    assert urls.of("oregon") == "four"


async def test_a_node_that_is_down_is_passed_over() -> None:
    with peer(http(200, b"{}")) as server:
        one = AiohttpTransport({"tokyo": [closed_port(), server.url]}, ClientOptions())
        for _ in range(3):
            assert (await one.send(GET)).status == 200
        await one.close()
        twin = Urllib3Transport({"tokyo": [closed_port(), server.url]}, ClientOptions())
        for _ in range(3):
            assert twin.send(GET).status == 200
        twin.close()


async def test_where_all_nodes_are_down_the_region_is() -> None:
    urls = {"tokyo": [closed_port(), closed_port()]}
    one, twin = AiohttpTransport(urls, ClientOptions()), Urllib3Transport(urls, ClientOptions())
    with pytest.raises(errors.RegionUnreachable):
        await one.send(GET)
    with pytest.raises(errors.RegionUnreachable):
        twin.send(GET)
    await one.close()
    twin.close()


async def test_a_request_that_may_have_arrived_is_not_repeated_at_another_node() -> None:
    with peer(BREAK) as first, peer(http(200, b"{}")) as second:
        one = AiohttpTransport({"tokyo": [first.url, second.url]}, ClientOptions())
        with pytest.raises(errors.Indefinite):
            await one.send(GET)
        assert second.requests == []
        assert (await one.send(GET)).status == 200  # the caller's retry finds the other one
        await one.close()
