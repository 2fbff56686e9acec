from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from atoll.client.answers import problem_of
from atoll.client.transport import Request, Response
from atoll.errors import AtollError, StoreUnwritable, error_classes
from atoll.replication import seal
from atoll.replication.failure import Failure
from atoll.replication.messages import DigestCall, PingCall, StreamRequest
from atoll.replication.seal import CALL_PATH, PROTOCOL_HEADER, STREAM_PATH
from atoll.replication.wire import PROTOCOL, FrameReader, Heartbeat

from ..region.world import APPLICATION, KEY
from ..virtual_time import in_virtual_time
from .served import CALLS_KEY, Served

PING = msgspec.msgpack.encode(PingCall())
DIGEST = msgspec.msgpack.encode(DigestCall("note"))


async def test_a_defect_is_told_without_its_inside(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with Served() as it:

        def defect(*arguments: object, **named: object) -> None:
            raise ZeroDivisionError("a secret")

        monkeypatch.setattr(it.stores["a"].tables, "get", defect)
        answer = await it.ask("GET", "/v1/profile/k")
    assert (answer.status, answer.problem) == (500, "internal")
    assert b"secret" not in answer.body
    assert "a secret" in caplog.text


async def test_a_full_disk_refuses_writes_and_serves_reads() -> None:
    async with Served() as it:
        await it.ask("PUT", "/v1/profile/k", {"name": "x"})
        it.stores["a"].tables.refusal = "no space left"
        answer = await it.ask("PUT", "/v1/profile/k", {"name": "y"})
        assert (answer.status, answer.problem, answer.headers["retry-after"]) == (
            507,
            "store-unwritable",
            "1",
        )
        assert (await it.ask("GET", "/v1/profile/k")).json["value"]["name"] == "x"
        assert (await it.ask("GET", "/health/serving")).status == 503
    assert isinstance(problem_of(Response(answer.status, answer.headers, answer.body)), StoreUnwritable)


async def test_a_client_that_leaves_midway_has_done_nothing() -> None:
    async with Served() as it:
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "PUT", "path": "/v1/profile/k", "query_string": b""}
        scope["headers"] = [(b"content-type", b"application/json")]
        await it.apps["a"](scope, receive, send)
        assert (sent, it["a"].vector) == ([], {})


async def _nothing(*arguments: object) -> Any:
    raise AssertionError("nobody asks")


async def test_only_http_is_served() -> None:
    async with Served() as it:
        with pytest.raises(RuntimeError, match="not websocket"):
            await it.apps["a"]({"type": "websocket"}, _nothing, _nothing)


@pytest.mark.parametrize(
    "method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "POST", "OPTIONS", "TRACE", "BREW"]
)
@pytest.mark.parametrize(
    "path",
    ["", "/", "//", "/v1/", "/v1//k", "/%ff", "/v1/%ff/k", "/health/", "/admin//", "/v1/ids/", "/" * 50],
)
async def test_every_request_is_answered(method: str, path: str) -> None:
    async with Served() as it:
        answer = await it.ask(method, path)
        assert 400 <= answer.status < 500
        assert method == "HEAD" or answer.problem


# -- between regions -----------------------------------------------------------------------------------


async def call(it: Served, path: str, body: bytes, sealed: str | None, version: str = str(PROTOCOL)) -> Any:
    headers = {"content-type": "application/vnd.atoll", PROTOCOL_HEADER: version}
    headers |= {} if sealed is None else {seal.HEADER: sealed}
    response = await it.transport().send(Request("a", "POST", path, "", headers, body, 5.0))
    return response.status, msgspec.msgpack.decode(response.body)


@in_virtual_time
async def test_a_peer_is_answered() -> None:
    async with Served("a", "b", application=APPLICATION) as it:
        sealed = seal.sign(CALLS_KEY, "b", CALL_PATH, it["b"].now_ms(), PING)
        status, reply = await call(it, CALL_PATH, PING, sealed)
        assert (status, reply[0], reply[1]) == (200, "ping", "a")


@pytest.mark.parametrize(
    ("key", "name", "path", "late_ms", "body"),
    [
        (KEY, "b", CALL_PATH, 0, PING),
        (CALLS_KEY, "mars", CALL_PATH, 0, PING),
        (CALLS_KEY, "a", CALL_PATH, 0, PING),
        (CALLS_KEY, "b", STREAM_PATH, 0, PING),
        (CALLS_KEY, "b", CALL_PATH, 61_000, DIGEST),
        (CALLS_KEY, "b", CALL_PATH, 0, b"\xff"),
        (CALLS_KEY, "b", CALL_PATH, 0, b"\x91\xa4ring"),
        (CALLS_KEY, "b", CALL_PATH, 0, b"\x91" * 100_000),
    ],
)
@in_virtual_time
async def test_a_stranger_is_refused(key: bytes, name: str, path: str, late_ms: int, body: bytes) -> None:
    async with Served("a", "b", application=APPLICATION) as it:
        sealed = seal.sign(key, name, path, it["a"].now_ms() - late_ms, body)
        status, failure = await call(it, CALL_PATH, body, sealed)
        assert status == 400
        assert "hostile-entry" in failure


@in_virtual_time
async def test_a_clock_that_is_far_off_is_told_the_time() -> None:
    async with Served("a", "b", application=APPLICATION) as it:
        sealed = seal.sign(CALLS_KEY, "b", CALL_PATH, it["a"].now_ms() + 600_000, PING)
        assert (await call(it, CALL_PATH, PING, sealed))[0] == 200


@in_virtual_time
async def test_nobody_asks_without_a_seal() -> None:
    async with Served("a", "b", application=APPLICATION) as it:
        for sealed in (None, "", "b", "b:x:y", "b:1:", f"b:{'9' * 40}:x", "b:²:x"):
            for path in (CALL_PATH, STREAM_PATH):
                status, failure = await call(it, path, PING, sealed)
                assert (status, "hostile-entry" in failure) == (400, True)


@pytest.mark.parametrize("version", ["", "1", str(PROTOCOL - 1), str(PROTOCOL + 1), "two"])
@in_virtual_time
async def test_a_peer_of_another_version_is_refused_and_counted(version: str) -> None:
    async with Served("a", "b", application=APPLICATION) as it:
        for path in (CALL_PATH, STREAM_PATH):
            sealed = seal.sign(CALLS_KEY, "b", path, it["b"].now_ms(), PING)
            status, failure = await call(it, path, PING, sealed, version)
            assert (status, "protocol-mismatch" in failure) == (400, True)
        link = it["a"].links["b"].status
        assert link.refused == 2
        assert link.last_error is not None
        assert "run the same version of Atoll in all regions" in link.last_error
        told = (await it.ask("GET", "/metrics")).body.decode()
        assert 'atoll_link_refused_total{peer="b"} 2.0' in told


@in_virtual_time
async def test_a_peer_that_is_cut_off_gets_no_answer() -> None:
    async with Served("a", "b", application=APPLICATION) as it:
        await it.ask("POST", "/admin/partition", {"peer": "b", "cut": True})
        sealed = seal.sign(CALLS_KEY, "b", CALL_PATH, it["b"].now_ms(), PING)
        status, failure = await call(it, CALL_PATH, PING, sealed)
        assert (status, "region-unreachable" in failure) == (503, True)


def _asked(it: Served, name: str) -> Request:
    body = msgspec.msgpack.encode(StreamRequest(name, {}, ("a",)))
    sealed = seal.sign(CALLS_KEY, "b", STREAM_PATH, it["b"].now_ms(), body)
    headers = {"content-type": "application/vnd.atoll", PROTOCOL_HEADER: str(PROTOCOL), seal.HEADER: sealed}
    return Request("a", "POST", STREAM_PATH, "", headers, body, 5.0)


@in_virtual_time
async def test_a_peer_gets_the_journal_as_a_stream() -> None:
    async with Served("a", "b", application=APPLICATION) as it:
        await it.write("a", "note", "k", {"text": "x"})
        reader = FrameReader(KEY)
        messages: list[Any] = []
        async with it.transport().stream(_asked(it, "b")) as stream:
            async for chunk in stream.chunks:
                messages += reader.feed(chunk)
                if len(messages) == 2:
                    break
        assert isinstance(messages[0], Heartbeat)
        assert [encoded.entry.seq for encoded in messages[1]] == [1]
        status, _ = await call(
            it, STREAM_PATH, (request := _asked(it, "c")).body, request.headers[seal.HEADER]
        )
        assert status == 400


@in_virtual_time
async def test_a_stream_ends_when_the_server_closes() -> None:
    async with Served("a", "b", application=APPLICATION) as it:
        async with it.transport().stream(_asked(it, "b")) as stream:
            asyncio.get_running_loop().call_later(1, it.apps["a"].closing.set)
            async for _ in stream.chunks:
                pass
        assert it.apps["a"].closing.is_set()


def test_every_failure_crosses_between_regions() -> None:
    for cls in error_classes().values():
        error = cls("what was wrong", left=3)
        again = msgspec.msgpack.decode(msgspec.msgpack.encode(Failure.of(error)), type=Failure).error()
        assert type(again) is cls
        assert isinstance(again, AtollError)
        assert (again.message, again.details) == (error.message, error.details)
