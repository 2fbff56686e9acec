"""etcd as a cluster of three members with distances between them; bare gRPC callers.

The program is the machine's `etcd`, else the one of Debian's package `etcd-server`, which is unpacked once into
`bench/.cache`. Every write is in the log of a majority, fsynced, before it is acknowledged.
"""

from __future__ import annotations

import http.client
import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.delayed import Links, Network, network
from bench.documents import document_body, document_key
from bench.peers import NotMeasured, until_it_serves
from bench.peers.grpc_connection import Unary
from bench.rounds import Say
from bench.served import connect, free_ports, wait_for

DURABILITY = "fsync in a majority before every acknowledgement"
PACKAGE = "etcd-server"
_CACHE = Path(__file__).parents[1] / ".cache" / PACKAGE
_INSTALL_S = 300.0
_PUT, _RANGE, _TXN = "/etcdserverpb.KV/Put", "/etcdserverpb.KV/Range", "/etcdserverpb.KV/Txn"


@dataclass(slots=True)
class Member:
    name: str
    url: str
    """For clients."""
    command: Sequence[str]
    folder: Path
    process: subprocess.Popen[bytes] = field(init=False)

    def start(self) -> None:
        """Begin to start; `wait` for it."""
        with (self.folder / f"{self.name}.log").open("ab") as log:
            self.process = subprocess.Popen(self.command, cwd=self.folder, stdout=log, stderr=log)

    def wait(self) -> None:
        """Until it knows a leader. Raises NotMeasured when it ends, or takes too long."""
        until_it_serves(self._leads, self.process.poll, "etcd")

    def kill(self) -> None:
        """`kill -9`."""
        self.process.kill()
        self.process.wait()

    def status(self) -> Any:
        """Raises OSError, http.client.HTTPException."""
        return self.ask("/v3/maintenance/status", {})

    def ask(self, path: str, body: object) -> Any:
        """By its JSON gateway."""
        connection = connect(self.url)
        try:
            connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            response = connection.getresponse()
            answer = json.loads(response.read())
            assert response.status == 200, f"{path}: {answer}"
            return answer
        finally:
            connection.close()

    def _leads(self) -> bool:
        try:
            return bool(self.status().get("leader"))
        except (OSError, http.client.HTTPException, AssertionError):
            return False


@dataclass(slots=True)
class Cluster:
    version: str
    members: Mapping[str, Member]
    _ids: Mapping[str, str] = field(default_factory=dict)
    """Member → its identifier."""

    @property
    def label(self) -> str:
        return f"etcd {self.version}"

    def leader(self) -> str | None:
        """As the first member that lives has it."""
        for member in self.members.values():
            if member.process.poll() is None:
                leads = member.status().get("leader")
                return next((name for name, each in self._ids.items() if each == leads), None)
        return None

    def lead(self, name: str) -> None:
        """Have this member lead."""

        def leads() -> bool:
            leader = self.leader()
            if leader in (None, name) or self.members[leader].process.poll() is not None:
                return leader == name
            self.members[leader].ask("/v3/maintenance/transfer-leadership", {"targetID": self._ids[name]})
            return False

        wait_for(leads, f"{name} does not lead etcd")


@contextmanager
def serving(
    folder: Path, names: Sequence[str], rtt_ms: Mapping[str, float], say: Say, *, install: bool
) -> Iterator[Cluster]:
    """A cluster with nothing in it; `rtt_ms` as in `[emulate]`. Without `install`, only what is here is used."""
    program = _program(say, install=install)
    folder.mkdir(parents=True)
    with ExitStack() as stack:
        between = stack.enter_context(network()) if rtt_ms else None
        ports = iter(free_ports(3 * len(names)))
        clients, own, seen = ({name: next(ports) for name in names} for _ in range(3))
        if between is None:
            seen = own
        else:
            between.set(Links({seen[name]: (name, own[name]) for name in names}, {}, {}))
        members = {}
        for name in names:
            url = f"http://127.0.0.1:{clients[name]}"
            command = [program, *_options(folder, name, url, own[name], seen)]
            members[name] = Member(name, url, command, folder)
            members[name].start()
            stack.callback(members[name].kill)  # a member that ends in good order waits for a leader
        for member in members.values():
            member.wait()
        ids = {name: member.status()["header"]["member_id"] for name, member in members.items()}
        if between is not None:
            _apart(between, {seen[name]: (name, own[name]) for name in names}, ids, rtt_ms)
        yield Cluster(_version(program), members, ids)


def _apart(
    between: Network,
    ports: Mapping[int, tuple[str, int]],
    ids: Mapping[str, str],
    rtt_ms: Mapping[str, float],
) -> None:
    origins = {f"{int(number):x}": name for name, number in ids.items()}
    one_way_ms: dict[str, float] = {}
    for pair, ms in rtt_ms.items():
        one, other = pair.split("-")
        one_way_ms |= {f"{one}>{other}": ms / 2, f"{other}>{one}": ms / 2}
    between.set(Links(ports, origins, one_way_ms))


def put_document(number: int, *, prefix: str = "", keys: int = 1_000_000, first: int = 0) -> Unary:
    """As `bench.load.put_document`."""
    number += first
    key = f"{prefix}{document_key(number % keys)}".encode()
    return Unary(_PUT, _field(1, key) + _field(2, document_body(number)))


def get_document(number: int, *, prefix: str = "", keys: int = 1_000) -> Unary:
    """A linearizable read."""
    return Unary(_RANGE, _field(1, f"{prefix}{document_key(number % keys)}".encode()))


def accounts(number: int) -> tuple[str, str]:
    """Two keys that no other number has."""
    return f"account-{2 * number}", f"account-{2 * number + 1}"


def put_accounts(number: int) -> Unary:
    """A transaction that writes two small values. Unlike a transfer, it reads nothing."""
    puts = (_field(1, key.encode()) + _field(2, b"1") for key in accounts(number))
    return Unary(_TXN, b"".join(_field(2, _field(2, put)) for put in puts))


def _field(number: int, value: bytes) -> bytes:
    """Of protobuf, with bytes in it."""
    length, left = b"", len(value)
    while left > 0x7F:
        length, left = length + bytes((left & 0x7F | 0x80,)), left >> 7
    return bytes((number << 3 | 2,)) + length + bytes((left,)) + value


def _options(folder: Path, name: str, url: str, port: int, seen: Mapping[str, int]) -> list[str]:
    """`port` is where the member listens to the others, who ask at the ports `seen`."""
    options = {
        "name": name,
        "data-dir": str(folder / name),
        "listen-client-urls": url,
        "advertise-client-urls": url,
        "listen-peer-urls": f"http://127.0.0.1:{port}",
        "initial-advertise-peer-urls": f"http://127.0.0.1:{seen[name]}",
        "initial-cluster": ",".join(f"{each}=http://127.0.0.1:{at}" for each, at in seen.items()),
        "logger": "zap",
    }
    return [word for option, value in options.items() for word in (f"--{option}", value)]


def _version(program: str) -> str:
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    match = re.search(r"Version: (\S+)", said)
    return match[1] if match else said.strip()


def _program(say: Say, *, install: bool) -> str:
    on_path = shutil.which("etcd")
    if on_path is not None:
        return on_path
    unpacked = _CACHE / "usr" / "bin" / "etcd"
    if not unpacked.exists():
        if not install:
            raise NotMeasured("etcd is not here yet; a run without --quick unpacks it")
        say(f"apt-get downloads {PACKAGE}, once")
        _unpack()
    return str(unpacked)


def _unpack() -> None:
    """Debian's package, without installing it: no service is started, and nobody need be root."""
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise NotMeasured(f"there is no apt-get to download {PACKAGE} with")
    _CACHE.mkdir(parents=True, exist_ok=True)
    done = _run("apt-get", "download", PACKAGE)
    if done.returncode != 0:
        _run("apt-get", "update")  # the lists may be missing, or old
        done = _run("apt-get", "download", PACKAGE)
    for archive in sorted(_CACHE.glob(f"{PACKAGE}_*.deb"))[-1:]:
        done = _run("dpkg-deb", "-x", archive.name, ".")
    if not (_CACHE / "usr" / "bin" / "etcd").exists():
        raise NotMeasured(f"apt-get cannot download {PACKAGE}: {done.stderr.strip()[-300:]}")


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command, cwd=_CACHE, capture_output=True, text=True, timeout=_INSTALL_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise NotMeasured(f"`{' '.join(command)}` did not end in {_INSTALL_S:.0f} s") from None
