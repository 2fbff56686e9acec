from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from atoll import errors
from atoll.client import ClientOptions, Request, Response
from atoll.client.urllib3_transport import Urllib3Transport

from .peer import BREAK, HANG, chunked, closed_port, http, peer

OPTIONS = ClientOptions(response_bytes=1000, connect_timeout_s=2.0)


def request(
    method: str = "GET", path: str = "/v1/a/b%2Fc", timeout_s: float = 5.0, body: bytes = b""
) -> Request:
    return Request(
        "tokyo", method, path, "limit=1&where=a%3Aeq%3A%221%22", {"atoll-session": "t"}, body, timeout_s
    )


@contextmanager
def transport(url: str) -> Iterator[Urllib3Transport]:
    one = Urllib3Transport({"tokyo": url}, OPTIONS)
    try:
        yield one
    finally:
        one.close()


def send(url: str, sent: Request) -> Response:
    with transport(url) as one:
        return one.send(sent)


def test_request_arrives_as_it_was_written() -> None:
    with peer(http(200, b"{}", "Atoll-Region: tokyo")) as server:
        response = send(server.url, request("PUT", body=b'{"a":1}'))
    assert server.requests[0].startswith(b"PUT /v1/a/b%2Fc?limit=1&where=a%3Aeq%3A%221%22 HTTP/1.1\r\n")
    assert b"atoll-session: t" in server.requests[0]
    assert server.requests[0].endswith(b'\r\n\r\n{"a":1}')
    assert (response.status, response.body) == (200, b"{}")
    assert response.headers.get("atoll-region") == "tokyo"


def test_connection_is_kept() -> None:
    with peer(http(200, b"{}")) as server, transport(server.url) as one:
        for _ in range(5):
            one.send(request())
    assert server.connections == 1


def test_refused_connection_is_definite() -> None:
    with pytest.raises(errors.RegionUnreachable):
        send(closed_port(), request("PUT"))


def test_unknown_host_is_definite() -> None:
    with pytest.raises(errors.RegionUnreachable):
        send("http://no-such-host.invalid:1", request("PUT"))


def test_broken_connection_is_indefinite() -> None:
    with peer(BREAK) as server, pytest.raises(errors.Indefinite):
        send(server.url, request("PUT"))


def test_silence_is_indefinite() -> None:
    with peer(HANG) as server, pytest.raises(errors.Indefinite):
        send(server.url, request("PUT", timeout_s=0.2))


def test_answer_cut_short_is_indefinite() -> None:
    with (
        peer(http(200, b"{}").replace(b"Length: 2", b"Length: 200")) as server,
        pytest.raises(errors.Indefinite),
    ):
        send(server.url, request("PUT", timeout_s=0.2))


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "POST"])
def test_request_on_a_broken_kept_connection_is_not_repeated(method: str) -> None:
    with peer(http(200, b"{}"), BREAK) as server, transport(server.url) as one:
        one.send(request())
        with pytest.raises(errors.Indefinite):
            one.send(request(method))
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    "answer", [http(200, b"x" * 1001), chunked(b"x" * 600, b"x" * 600)], ids=["declared", "chunked"]
)
def test_too_large_an_answer_is_not_read(answer: bytes) -> None:
    with peer(answer) as server, pytest.raises(errors.TooLarge, match="1000 bytes"):
        send(server.url, request())


def test_chunked_answer_is_read_whole() -> None:
    with peer(chunked(b"ab", b"cd")) as server:
        assert (send(server.url, request())).body == b"abcd"


def test_redirect_is_not_followed() -> None:
    with peer(http(302, b"", "Location: /elsewhere")) as server:
        assert (send(server.url, request())).status == 302
    assert len(server.requests) == 1


def test_what_does_not_speak_http_is_named() -> None:
    with peer(b"SSH-2.0-OpenSSH_9.6\r\n") as server, pytest.raises(errors.ConfigError, match="HTTP"):
        send(server.url, request())


def test_stream_brings_chunks_and_ends() -> None:
    with (
        peer(chunked(b": hello\n\n", b"data: x\n\n")) as server,
        transport(server.url) as one,
        one.stream(request()) as stream,
    ):
        assert stream.status == 200
        assert stream.headers.get("content-type") == "text/event-stream"
        assert b"".join(stream.chunks) == b": hello\n\ndata: x\n\n"


def test_silent_stream_is_indefinite() -> None:
    with (
        peer(chunked(b": hello\n\n", end=False)) as server,
        transport(server.url) as one,
        one.stream(request(timeout_s=0.2)) as stream,
    ):
        assert next(stream.chunks) == b": hello\n\n"
        with pytest.raises(errors.Indefinite):
            next(stream.chunks)


def test_closed_transport_says_so() -> None:
    one = Urllib3Transport({"tokyo": closed_port()}, OPTIONS)
    one.close()
    one.close()
    with pytest.raises(errors.ConfigError, match="closed"):
        one.send(request())
