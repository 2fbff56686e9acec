"""A region on loopback, and generated requests against it, checked by what its own description promises."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter as Counted
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import schemathesis
from hypothesis import strategies as st
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import from_schema
from schemathesis.engine.events import NonFatalError, ScenarioFinished

from atoll import BoundedCounter, Collection, Counter, ListOf, MapOf, Saga, SetOf, Text, step
from atoll.causality.clock import Stamp
from atoll.causality.place import Place
from atoll.client import multiplex
from atoll.http.common import encode_cursor
from atoll.node.listening import Listener
from atoll.schema import application_of

from .served import CODEC, Served

LIMITS = {
    "seed": 20261128,
    "generation": {"max-examples": 5, "database": "none", "deterministic": True},
    "phases": {"stateful": {"generation": {"max-examples": 5}, "max-steps": 6}},
    "request-timeout": 10.0,
    # A feed never ends: the answer is read up to its first event.
    "max-stream-events": 1,
    "continue-on-failure": True,
}
CHECKS = {
    # A promised answer: the region cannot meet the bound on staleness in time, or is told to drain.
    "not_a_server_error": {"expected-statuses": ["2xx", "3xx", "4xx", "503"]},
    # What only the state of the document can tell: a version (412), room in a counter (409), a place in a text (422).
    "positive_data_acceptance": {"expected-statuses": ["2xx", "304", "404", "409", "412", "422", "503"]},
    "negative_data_rejection": {
        "expected-statuses": ["400", "404", "405", "409", "412", "413", "415", "422", "503"]
    },
}
OPERATIONS = [
    # What would be accepted is sealed with the deployment's key and the time: no schema can say how.
    {
        "include-path": ["/replication/call", "/replication/stream"],
        "checks": {"positive_data_acceptance": {"enabled": False}},
    },
    # It makes a document of what was deleted, as it does of what never was.
    {"include-method": ["PATCH"], "checks": {"use_after_free": {"enabled": False}}},
]
"""Nobody is told apart yet, so `ignored_auth` and `object_level_authorization` have nothing to look at."""
EXPECTED = {
    "content_type_conformance",
    "ensure_resource_availability",
    "missing_required_header",
    "negative_data_rejection",
    "not_a_server_error",
    "positive_data_acceptance",
    "response_headers_conformance",
    "response_schema_conformance",
    "status_code_conformance",
    "unsupported_method",
    "use_after_free",
}


class Cart(Collection, resolve="merge"):
    note: str = ""
    items: SetOf[str]
    labels: MapOf[int]
    views: Counter


class Stock(Collection, consistency="strong", fallback="escrow"):
    note: str
    left: BoundedCounter = 0
    body: Text
    lines: ListOf[str]


class Payment(Saga):
    amount: int = 0

    @step(signal="paid")
    def pay(self, tx: Any, signal: Any) -> None:
        self.amount += 1


APPLICATION = application_of(Cart, Stock, Payment, name="conformance")


@contextmanager
def listening() -> Iterator[str]:
    """Region a, which is linked to a region b, behind the server of production; yields its url."""
    started: Future[tuple[str, Callable[[], None]]] = Future()

    async def serve() -> None:
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        options = {"max_wait_s": 0.02, "longest_wait_s": 0.02}
        async with Served("a", "b", application=APPLICATION, **options) as it:
            for collection in APPLICATION.collections:  # so that each feed has something to tell
                await it.ask("PUT", f"/v1/{collection}/first", {"note": "here"})
            with socket.create_server(("127.0.0.1", 0)) as taken:
                taken.setblocking(False)
                listener = Listener(taken)
                listener.app = it.apps["a"]
                await listener.start()
                port = taken.getsockname()[1]
                started.set_result((f"http://127.0.0.1:{port}", lambda: loop.call_soon_threadsafe(ended.set)))
                await ended.wait()
                it.apps["a"].closing.set()
                await listener.stop()

    with ThreadPoolExecutor(1) as pool:
        serving = pool.submit(asyncio.run, serve())
        url, end = started.result(20)
        try:
            yield url
        finally:
            end()
            serving.result(20)


def register_formats() -> None:
    """What a JSON schema cannot say: texts that only the region, or a rule beyond regular expressions, gives."""
    words = st.text("abcdefgh", min_size=1, max_size=8)
    formats = {
        "key": st.one_of(words, st.sampled_from(["a/b", "é", "a b", "%", "日本"])),
        "prefix": words,
        "session": st.sampled_from([CODEC.encode({}), CODEC.encode({"b": 0})]),
        "feed-cursor": st.just(CODEC.encode({})),
        "cursor": st.just("YQ"),
        "collection": st.sampled_from(["cart", "stock"]),
        "saga": st.just("payment"),
        "saga-cursor": st.just(encode_cursor("payment/a")),
        "record-cursor": st.just("MTcwMDAwMDAwMDAwMCBh"),
        "event-cursor": st.just(encode_cursor(Place(Stamp(1 << 60), "a", 1, 0).key)),
        "etag": st.sampled_from(["*", '"x"']),
        "condition": st.just("note:eq:ann"),
        "moment": st.sampled_from(["1700000000000", "2026-11-23T09:00:00Z"]),
        "peer": st.just("b"),
        "region": st.sampled_from(["a", "b"]),
        "traceparent": st.just("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    }
    for name, strategy in formats.items():
        schemathesis.openapi.format(name, strategy)
    schemathesis.openapi.media_type(multiplex.CONTENT_TYPE, st.just(multiplex.encode_asked([])))
    schemathesis.openapi.media_type("application/vnd.atoll", st.binary(max_size=20))


@dataclass
class Outcome:
    requests: int = 0
    checks: Counted[str] = field(default_factory=Counted)
    findings: list[str] = field(default_factory=list)


def tried(url: str, config: dict[str, Any]) -> Outcome:
    """Send what is generated from the description, and gather what is wrong with the answers."""
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json", config=SchemathesisConfig.from_dict(config))
    outcome = Outcome()
    for event in from_schema(schema).execute():
        if isinstance(event, NonFatalError):
            outcome.findings.append(f"{event.label}: {event.value}")
        elif isinstance(event, ScenarioFinished):
            outcome.requests += len(event.recorder.interactions)
            for case, checks in event.recorder.checks.items():
                for check in checks:
                    outcome.checks[check.name] += 1
                    if check.failure_info is not None:
                        answer = event.recorder.interactions[case].response
                        told = None if answer is None else (answer.status_code, answer.content[:500])
                        outcome.findings.append(
                            f"{event.phase.value} {event.recorder.label}: {check.name}: "
                            f"{check.failure_info.failure.message}\n    {check.failure_info.code_sample}\n    {told}"
                        )
    return outcome


@pytest.mark.timeout(300)  # 20 s of work, on a machine that may do other things
def test_generated_requests_find_nothing() -> None:
    register_formats()
    with listening() as url:
        outcome = tried(url, {**LIMITS, "checks": CHECKS, "operations": OPERATIONS})
    assert not outcome.findings, "\n".join(outcome.findings[:20])
    assert outcome.requests > 1000
    assert outcome.checks.keys() >= EXPECTED, outcome.checks
