"""What is measured in `bench.strong`: Atoll and etcd, each as three processes at the same distances."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench import load
from bench.callers import apart
from bench.load import Connection, HttpConnection
from bench.peers import etcd
from bench.peers.grpc_connection import GrpcConnection
from bench.regions import PREFIX
from bench.rounds import Say
from bench.served import linked, serving
from bench.strong_calls import Plan, Request, Sent, send

APP = Path(__file__).with_name("strong_record.py")
NAMES = ("tokyo", "frankfurt", "virginia")
RTT_MS = {"frankfurt-tokyo": 230.0, "tokyo-virginia": 150.0, "frankfurt-virginia": 90.0}
LEADER = "virginia"
"""Where etcd's leader is nearest to all."""


def rtt_ms(one: str, other: str) -> float:
    return RTT_MS.get(f"{one}-{other}") or RTT_MS[f"{other}-{one}"]


def majority_ms(region: str) -> float:
    """The round trip to the nearest majority of three: itself and its nearest peer."""
    return min(rtt_ms(region, other) for other in NAMES if other != region)


@dataclass(frozen=True, slots=True)
class System:
    label: str
    urls: Mapping[str, str]
    """Of the process in each region."""
    kind: Callable[[], Connection]
    put: Request
    get: Request
    transfer: Request
    """Between two accounts that no other number names."""
    victims: Sequence[str]
    """The regions whose loss matters."""
    kill: Callable[[str], None]
    """`kill -9`."""
    restart: Callable[[str], None]
    """Returns when all is as before."""

    def plan(self, region: str, request: Request, numbers: range, connections: int = 1) -> Plan:
        return Plan(self.urls[region], request, numbers, connections)

    def send(self, *plans: Plan) -> list[Sent]:
        """All at once. Raises AssertionError where not nearly all succeeded."""
        found = apart(send, self.kind, plans)
        for sent in found:
            assert sent.succeeded >= 0.95 * len(sent.took_ns), f"{self.label}: {dict(sent.statuses)}"
        return found


def transfer(number: int) -> load.Request:
    """From one account to another. An account begins with nothing, and may owe."""
    writes = [
        {"patch": {"collection": "account", "key": account, "operators": {"$inc": {"balance": amount}}}}
        for account, amount in zip(etcd.accounts(number), (-1, 1), strict=True)
    ]
    body = json.dumps({"writes": writes}).encode()
    return load.Request("POST", "/v1/transactions", body, {"Content-Type": "application/json"})


@contextmanager
def atoll_regions(folder: Path, rtt_ms: Mapping[str, float]) -> Iterator[System]:
    with serving(folder, NAMES, rtt_ms, app=APP) as regions:
        linked(regions)
        named = {region.name: region for region in regions}

        def restart(name: str) -> None:
            named[name].start()
            named[name].wait()
            linked(regions)

        yield System(
            "Atoll",
            {region.name: region.url for region in regions},
            HttpConnection,
            partial(load.put_document, prefix=PREFIX),
            partial(load.get_document, prefix=PREFIX, keys=1_000_000),
            transfer,
            NAMES,
            lambda name: named[name].kill(),
            restart,
        )


@contextmanager
def etcd_members(folder: Path, rtt_ms: Mapping[str, float], say: Say, *, install: bool) -> Iterator[System]:
    """Raises NotMeasured."""
    with etcd.serving(folder, NAMES, rtt_ms, say, install=install) as cluster:
        cluster.lead(LEADER)

        def restart(name: str) -> None:
            cluster.members[name].start()
            cluster.members[name].wait()
            cluster.lead(LEADER)

        yield System(
            cluster.label,
            {name: member.url for name, member in cluster.members.items()},
            GrpcConnection,
            etcd.put_document,
            partial(etcd.get_document, keys=1_000_000),
            etcd.put_accounts,
            (LEADER,),
            lambda name: cluster.members[name].kill(),
            restart,
        )
