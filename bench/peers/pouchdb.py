"""pouchdb-server: documents with revisions, replicated both ways for as long as it runs; from npm.

It is installed once, into `bench/.cache`. It acknowledges before an fsync (LevelDB's default), so it is quicker than
it would be with the durability of the others.
"""

from __future__ import annotations

import http.client
import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bench.documents import document_body, document_key
from bench.load import Request
from bench.peers import STOP_S, NotMeasured, until_it_serves
from bench.rounds import Say
from bench.served import connect, free_ports

DURABILITY = "no fsync before the acknowledgement"
VERSION = "4.2.0"
DATABASE = "/record"
_CACHE = Path(__file__).parents[1] / ".cache" / f"pouchdb-server-{VERSION}"
_INSTALL_S = 600.0
_PROGRAM = _CACHE / "node_modules" / ".bin" / "pouchdb-server"
_JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True, slots=True)
class Served:
    url: str

    def put(self, number: int) -> None:
        path, body = f"{DATABASE}/{document_key(number)}", json.loads(document_body(number))
        status, answer = _ask(self.url, "PUT", path, body)
        assert status == 201, answer

    def shows(self, number: int) -> bool:
        status, _ = _ask(self.url, "GET", f"{DATABASE}/{document_key(number)}")
        return status == 200

    def count(self) -> int:
        _, answer = _ask(self.url, "GET", DATABASE)
        return int(answer["doc_count"])


@contextmanager
def replicating(folder: Path, say: Say, *, install: bool) -> Iterator[tuple[Served, Served]]:
    """Two servers with an empty database each. Without `install`, only what is installed already is used."""
    _require(say, install=install)
    with _serving(folder / "here") as here, _serving(folder / "there") as there:
        for server in (here, there):
            status, answer = _ask(server.url, "PUT", DATABASE)
            if status >= 300:
                raise NotMeasured(f"pouchdb-server makes no database: {answer}")
        for server, other in ((here, there), (there, here)):
            body = {"source": other.url + DATABASE, "target": server.url + DATABASE, "continuous": True}
            status, answer = _ask(server.url, "POST", "/_replicate", body)
            if status >= 300:
                raise NotMeasured(f"pouchdb-server does not replicate: {answer}")
        yield here, there


def put_document(number: int, *, first: int = 0) -> Request:
    """PUT of a document that is not there yet."""
    number += first
    return Request("PUT", f"{DATABASE}/{document_key(number)}", document_body(number), _JSON)


def batch_of(number: int, *, size: int, first: int = 0) -> Request:
    """POST of `size` documents in one request."""
    start = first + number * size
    docs = (
        b'{"_id":"%b",%b' % (document_key(each).encode(), document_body(each)[1:])
        for each in range(start, start + size)
    )
    return Request("POST", f"{DATABASE}/_bulk_docs", b'{"docs":[' + b",".join(docs) + b"]}", _JSON)


def _require(say: Say, *, install: bool) -> None:
    if _PROGRAM.exists():
        return
    if not install:
        raise NotMeasured("pouchdb-server is not installed yet; a run without --quick does that")
    npm = shutil.which("npm")
    if npm is None:
        raise NotMeasured("there is no npm to install pouchdb-server with")
    say(f"npm installs pouchdb-server {VERSION}, once: about two minutes")
    _CACHE.mkdir(parents=True, exist_ok=True)
    command = [npm, "install", "--prefix", str(_CACHE), "--no-audit", "--no-fund", "--loglevel=error"]
    try:
        done = subprocess.run(
            [*command, f"pouchdb-server@{VERSION}"],
            capture_output=True,
            text=True,
            timeout=_INSTALL_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise NotMeasured(f"npm had not installed pouchdb-server after {_INSTALL_S:.0f} s") from None
    if done.returncode != 0 or not _PROGRAM.exists():
        raise NotMeasured(f"npm cannot install pouchdb-server: {done.stderr.strip()[-300:]}")


@contextmanager
def _serving(folder: Path) -> Iterator[Served]:
    folder.mkdir(parents=True)
    (port,) = free_ports(1)
    command = [str(_PROGRAM), "--port", str(port), "--host", "127.0.0.1", "--dir", str(folder)]
    with (folder / "out.log").open("wb") as log:
        process = subprocess.Popen([*command, "--no-stdout-logs"], cwd=folder, stdout=log, stderr=log)
    served = Served(f"http://127.0.0.1:{port}")
    try:
        until_it_serves(lambda: _answers(served.url), process.poll, "pouchdb-server")
        yield served
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(url: str) -> bool:
    try:
        return _ask(url, "GET", "/")[0] == 200
    except (OSError, http.client.HTTPException):
        return False


def _ask(url: str, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    assert urlsplit(url).scheme == "http"
    connection = connect(url)
    try:
        connection.request(method, path, None if body is None else json.dumps(body), _JSON)
        response = connection.getresponse()
        return response.status, json.loads(response.read() or b"null")
    finally:
        connection.close()
