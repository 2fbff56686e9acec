"""The sharing of exchanges: against a region that answers as a test says, and against a real one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from atoll.client import ClientOptions, Request, Response, multiplex
from atoll.client.multiplex import Answered, Asked
from atoll.client.multiplexing import Multiplexed
from atoll.client.transport import Stream
from atoll.errors import AtollError, Indefinite, Overloaded, RegionUnreachable, TooLarge

from ..http.served import Served
from ..virtual_time import in_virtual_time, turns

Script = Callable[[list[Asked]], AsyncIterator[bytes]]
OPTIONS = ClientOptions(multiplex_beyond=1, response_bytes=1000)


def request(
    path: str = "/v1/profile/k", method: str = "PUT", body: bytes = b"{}", timeout_s: float = 5.0
) -> Request:
    return Request("tokyo", method, path, "", {"idempotency-key": path}, body, timeout_s)


def answer(number: int, asked: Asked) -> bytes:
    return multiplex.encode_answered(Answered(number, 200, {"etag": asked.path}, asked.path.encode()))


async def at_once(asked: list[Asked]) -> AsyncIterator[bytes]:
    yield b"".join(answer(number, each) for number, each in enumerate(asked))


class Region:
    """A transport on which the first request never ends, unless `free`, and shared ones go by a script."""

    def __init__(self, script: Script = at_once, status: int = 200) -> None:
        self.script = script
        self.status = status
        self.alone: list[Request] = []
        self.shared: list[list[Asked]] = []
        self.free = False
        self.fails: AtollError | None = None

    async def send(self, request: Request) -> Response:
        self.alone.append(request)
        if len(self.alone) == 1 and not self.free:
            await asyncio.Event().wait()
        return Response(200, {}, b"alone")

    @asynccontextmanager
    async def stream(self, request: Request) -> AsyncIterator[Stream]:
        assert (request.method, request.path) == ("POST", multiplex.PATH)
        asked = multiplex.decode_asked(request.body)
        self.shared.append(asked)
        if self.fails is not None:
            raise self.fails
        yield Stream(self.status, {}, self.script(asked))

    async def close(self) -> None:
        """Nothing is held."""

    def forget(self) -> None:
        """Nothing is held."""


class Client:
    """A client with one call under way that holds the only exchange of its own."""

    def __init__(self, region: Region) -> None:
        self.region = region
        self.transport = Multiplexed(region, OPTIONS)

    async def __aenter__(self) -> Client:
        self._first = asyncio.create_task(self.transport.send(request("/v1/profile/first")))
        await turns()
        return self

    async def __aexit__(self, *failure: object) -> None:
        self._first.cancel()
        await asyncio.gather(self._first, return_exceptions=True)
        await self.transport.close()

    async def send(self, *requests: Request) -> list[Response | BaseException]:
        return await asyncio.gather(*map(self.transport.send, requests), return_exceptions=True)


def bodies(found: list[Response | BaseException]) -> list[bytes]:
    assert all(isinstance(each, Response) for each in found), found
    return [each.body for each in found if isinstance(each, Response)]


@in_virtual_time
async def test_calls_one_after_the_other_go_alone() -> None:
    region = Region()
    region.free = True
    transport = Multiplexed(region, OPTIONS)
    for _ in range(5):
        assert (await transport.send(request())).body == b"alone"
    assert len(region.alone) == 5
    assert not region.shared


@in_virtual_time
async def test_calls_beyond_share_an_exchange_and_each_has_its_answer() -> None:
    async with Client(Region()) as it:
        found = await it.send(*(request(f"/v1/profile/{number}") for number in range(20)))
    assert bodies(found) == [b"/v1/profile/%d" % number for number in range(20)]
    assert [each.headers["etag"] for each in found if isinstance(each, Response)][3] == "/v1/profile/3"
    assert [len(asked) for asked in it.region.shared] == [20]
    assert it.region.shared[0][3].headers["idempotency-key"] == "/v1/profile/3"


@in_virtual_time
async def test_an_exchange_is_bounded() -> None:
    async with Client(Region()) as it:
        found = await it.send(*(request(f"/v1/profile/{number}") for number in range(200)))
        assert bodies(found) == [b"/v1/profile/%d" % number for number in range(200)]
        large = [request(f"/v1/profile/{number}", body=bytes(60_000)) for number in range(60)]
        assert len(bodies(await it.send(*large))) == 60
    assert max(len(asked) for asked in it.region.shared) == 64
    assert max(sum(len(each.body) for each in asked) for asked in it.region.shared) < 1_200_000


@pytest.mark.parametrize(
    "single",
    [
        request("/v1/profile", "GET", b""),
        request("/v1/conflicts", "GET", b""),
        request("/health/serving", "GET", b""),
        request("/v1/profile/k", body=bytes(64 << 10)),
    ],
    ids=lambda each: f"{each.method} {each.path} {len(each.body)}",
)
@in_virtual_time
async def test_what_may_be_large_goes_alone(single: Request) -> None:
    async with Client(Region()) as it:
        assert bodies(await it.send(single)) == [b"alone"]
    assert not it.region.shared


@in_virtual_time
async def test_what_takes_long_does_not_keep_others_from_being_sent() -> None:
    async def quick_first(asked: list[Asked]) -> AsyncIterator[bytes]:
        slow = [number for number, each in enumerate(asked) if "slow" in each.path]
        for number, each in enumerate(asked):
            if number not in slow:
                yield answer(number, each)
        if slow:
            await asyncio.sleep(3)
            for number in slow:
                yield answer(number, asked[number])

    async with Client(Region(quick_first)) as it:
        loop = asyncio.get_running_loop()
        slow = [asyncio.create_task(it.transport.send(request(f"/v1/slow/{n}"))) for n in range(2)]
        await turns()
        more = asyncio.create_task(it.transport.send(request("/v1/slow/more")))
        await turns()
        started_s = loop.time()
        await it.transport.send(request("/v1/profile/quick"))
        assert loop.time() - started_s < 0.1
        assert [one.body for one in await asyncio.gather(*slow, more)][2] == b"/v1/slow/more"
        assert loop.time() - started_s < 3.1


@in_virtual_time
async def test_those_that_were_answered_before_a_break_keep_their_answer() -> None:
    async def breaks(asked: list[Asked]) -> AsyncIterator[bytes]:
        yield answer(0, asked[0])
        raise Indefinite("the connection broke")

    async with Client(Region(breaks)) as it:
        first, *others = await it.send(*(request(f"/v1/profile/{number}") for number in range(3)))
    assert bodies([first]) == [b"/v1/profile/0"]
    assert [(type(each), str(each)) for each in others] == [(Indefinite, "the connection broke")] * 2
    assert others[0] is not others[1]


@in_virtual_time
async def test_a_stream_that_ends_early_leaves_the_others_in_doubt() -> None:
    async def ends(asked: list[Asked]) -> AsyncIterator[bytes]:
        yield answer(1, asked[1])

    async with Client(Region(ends)) as it:
        found = await it.send(request("/v1/profile/0"), request("/v1/profile/1"))
    assert isinstance(found[0], Indefinite)
    assert bodies(found[1:]) == [b"/v1/profile/1"]


@in_virtual_time
async def test_a_region_that_is_not_reached_has_surely_got_nothing() -> None:
    async with Client(Region()) as it:
        it.region.fails = RegionUnreachable("connection refused")
        found = await it.send(request(), request())
    assert [type(each) for each in found] == [RegionUnreachable] * 2


@pytest.mark.parametrize(
    "rubbish", [b"\x02\x00\x00\x00\xc1\xc1", multiplex.encode_answered(Answered(7, 200, {}, b""))]
)
@in_virtual_time
async def test_what_is_no_answer_leaves_all_in_doubt(rubbish: bytes) -> None:
    async def talks_rubbish(asked: list[Asked]) -> AsyncIterator[bytes]:
        yield rubbish

    async with Client(Region(talks_rubbish)) as it:
        found = await it.send(request(), request())
    assert [type(each) for each in found] == [Indefinite] * 2


@in_virtual_time
async def test_an_answer_beyond_the_bound_is_refused() -> None:
    async def large(asked: list[Asked]) -> AsyncIterator[bytes]:
        yield multiplex.encode_answered(Answered(0, 200, {}, bytes(100_000)))

    async with Client(Region(large)) as it:
        (found,) = await it.send(request())
    assert isinstance(found, TooLarge)


@pytest.mark.parametrize("status", [400, 403, 404, 405])
@in_virtual_time
async def test_where_nobody_takes_shared_exchanges_each_goes_alone(status: int) -> None:
    async with Client(Region(status=status)) as it:
        assert bodies(await it.send(request(), request())) == [b"alone"] * 2
        assert bodies(await it.send(request(), request())) == [b"alone"] * 2
    assert len(it.region.shared) == 1


@in_virtual_time
async def test_a_refusal_of_the_whole_is_the_answer_to_each() -> None:
    async def refusal(asked: list[Asked]) -> AsyncIterator[bytes]:
        yield b"not now"

    async with Client(Region(refusal, status=503)) as it:
        found = await it.send(request(), request())
    assert bodies(found) == [b"not now"] * 2
    assert [each.status for each in found if isinstance(each, Response)] == [503] * 2


@in_virtual_time
async def test_each_has_its_own_deadline() -> None:
    async def silent(asked: list[Asked]) -> AsyncIterator[bytes]:
        yield answer(0, asked[0])
        await asyncio.sleep(2)
        yield answer(2, asked[2])

    async with Client(Region(silent)) as it:
        found = await it.send(
            request("/v1/profile/0"), request("/v1/profile/1", timeout_s=1.0), request("/v1/profile/2")
        )
    assert bodies([found[0], found[2]]) == [b"/v1/profile/0", b"/v1/profile/2"]
    assert isinstance(found[1], Indefinite)
    assert str(found[1]) == "no answer in time"


@in_virtual_time
async def test_what_could_not_be_sent_in_time_is_no_fault_of_the_region() -> None:
    async def silent(asked: list[Asked]) -> AsyncIterator[bytes]:
        await asyncio.Event().wait()
        yield b""

    async with Client(Region(silent)) as it:
        found = await it.send(*(request(timeout_s=0.01) for _ in range(200)))
        sent = sum(len(asked) for asked in it.region.shared)
    assert 0 < sent < 200
    assert [type(each) for each in found] == [Indefinite] * sent + [Overloaded] * (200 - sent)


@in_virtual_time
async def test_one_that_is_given_up_before_it_is_sent_is_not_sent() -> None:
    async with Client(Region()) as it:
        given_up = asyncio.create_task(it.transport.send(request("/v1/profile/given-up")))
        await asyncio.sleep(0)
        kept = asyncio.create_task(it.transport.send(request("/v1/profile/kept")))
        given_up.cancel()
        assert (await kept).body == b"/v1/profile/kept"
    assert [[each.path for each in asked] for asked in it.region.shared] == [["/v1/profile/kept"]]


@in_virtual_time
async def test_a_client_that_closes_leaves_nobody_waiting() -> None:
    async def never(asked: list[Asked]) -> AsyncIterator[bytes]:
        yield answer(0, asked[0])
        await asyncio.Event().wait()

    async with Client(Region(never)) as it:
        waiting = asyncio.gather(*(it.transport.send(request()) for _ in range(2)), return_exceptions=True)
        await turns(10)
    assert [type(each) for each in await waiting] == [Response, Indefinite]


async def test_a_real_region_answers_each_of_them() -> None:
    async with Served() as it:
        transport = Multiplexed(it.transport(), ClientOptions(multiplex_beyond=2))
        json = {"content-type": "application/json"}
        puts = [
            Request("a", "PUT", f"/v1/profile/{number}", "", json, b'{"name":"%d"}' % number, 5.0)
            for number in range(100)
        ]
        assert {each.status for each in await asyncio.gather(*map(transport.send, puts))} == {200}
        gets = [Request("a", "GET", f"/v1/profile/{number}", "", {}, b"", 5.0) for number in range(101)]
        found = await asyncio.gather(*map(transport.send, gets))
        await transport.close()
    assert [each.status for each in found] == [200] * 100 + [404]
    assert [b'"name":"%d"' % number in each.body for number, each in enumerate(found[:100])] == [True] * 100
