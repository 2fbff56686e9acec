"""Regions that answer what a test says, over real HTTP."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

Reply = Callable[[str, dict[str, list[str]]], tuple[int, Any]]
"""(path, query) → status and JSON body."""


def _addresses(urls: list[str]) -> str:
    if len(urls) == 1:
        return f'url = "{urls[0]}"'
    return f'nodes = {json.dumps(urls)}\nstore = "postgresql://shop@127.0.0.1/shop"'


class Deployment:
    """An atoll.toml, and which of its regions answer."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._servers: list[ThreadingHTTPServer] = []
        self._urls: dict[str, list[str]] = {}

    @property
    def config(self) -> str:
        path = self._folder / "atoll.toml"
        regions = "".join(f"[regions.{name}]\n{_addresses(urls)}\n" for name, urls in self._urls.items())
        path.write_text(f'[deployment]\nname = "shop"\napp = "shop.py"\n{regions}', "utf-8")
        return str(path)

    def answers(self, region: str, reply: Reply) -> None:
        """Its next node does, also to a POST, whose JSON body's members come as a query does."""

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                sent = json.loads(self.rfile.read(int(self.headers["content-length"])))
                self._answer(self.path, {name: [value] for name, value in sent.items()})

            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                self._answer(parts.path, parse_qs(parts.query))

            def _answer(self, path: str, query: dict[str, list[str]]) -> None:
                status, body = reply(path, query)
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: Any) -> None:
                """Keep the tests' output clean."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        self._servers.append(server)
        self._at(region, server)

    def _at(self, region: str, server: ThreadingHTTPServer) -> None:
        """The region's next node."""
        self._urls.setdefault(region, []).append(f"http://127.0.0.1:{server.server_address[1]}")

    def silent(self, region: str) -> None:
        """Its port is taken and released, so that nothing listens there."""
        server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
        server.server_close()
        self._at(region, server)

    def close(self) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    made = Deployment(tmp_path)
    try:
        yield made
    finally:
        made.close()
