from __future__ import annotations

import asyncio
from typing import Any

from atoll import Abort, Collection, Retry, Saga, step
from atoll.schema import application_of

from .served import Served


class Profile(Collection):
    name: str


class Payment(Saga):
    amount: int = 0
    to: str = ""

    @step(signal="paid", compensate="give_back", retry=Retry(1))
    def pay(self, tx: Any, signal: Any) -> None:
        tx.put(Profile(key=self.key, name=str(signal)))

    async def give_back(self, tx: Any) -> None:
        if self.to == "nobody":
            raise OSError("no such account")
        tx.delete(Profile, self.key)

    @step(effect=True)
    async def tell(self, key: str) -> None:
        if self.to:
            raise Abort("they do not listen")


class Nothing(Saga):
    @step
    def do(self, tx: Any) -> None: ...


SHOP = application_of(Profile, Payment, Nothing, name="shop")
ONE = "/v1/sagas/payment/1"


def served() -> Served:
    return Served(application=SHOP)


async def stands(it: Served, path: str = ONE, status: str = "stuck") -> Any:
    """Once it stands so."""
    async with asyncio.timeout(10):
        while True:
            found = (await it.ask("GET", path, query="wait=1")).json
            if found["status"] == status:
                return found


async def test_a_saga_is_started_told_and_shown() -> None:
    async with served() as it:
        answer = await it.ask("POST", "/v1/sagas/payment", {"key": "1", "fields": {"amount": 5}})
        assert answer.status == 200
        assert (answer.json["key"], answer.json["status"], answer.json["step"]) == ("1", "waiting", "pay")
        assert answer.json["fields"] == {"amount": 5, "to": ""}
        assert not {"nonce", "given", "heard", "plan"} & answer.json.keys()
        told = await it.ask("POST", ONE, {"signal": {"name": "paid", "value": "ann"}}, query="wait=5")
        assert (told.json["status"], [each["step"] for each in told.json["done"]]) == (
            "completed",
            ["pay", "tell"],
        )
        assert (await it.ask("GET", ONE)).json == told.json
        read = await it.ask("GET", "/v1/profile/1", atoll_session=told.headers["atoll-session"])
        assert read.json["value"] == {"name": "ann"}


async def test_starting_it_again_says_how_it_stands() -> None:
    async with served() as it:
        for _ in range(2):
            answer = await it.ask("POST", "/v1/sagas/nothing", {"key": "a/b"}, query="wait=5")
            assert (answer.status, answer.json["status"]) == (200, "completed")
        assert (await it.ask("GET", "/v1/sagas/nothing/a/b")).json["key"] == "a/b"
        await it.ask("POST", "/v1/sagas/payment", {"key": "1"})
        other = await it.ask("POST", "/v1/sagas/payment", {"key": "1", "fields": {"amount": 6}})
        assert (other.status, other.problem) == (422, "idempotency-key-reused")


async def test_what_is_stuck_since_when_and_why() -> None:
    async with served() as it:
        for key, to in (("1", "nobody"), ("2", "somebody"), ("3", "")):
            await it.ask("POST", "/v1/sagas/payment", {"key": key, "fields": {"to": to}})
            await it.ask("POST", f"/v1/sagas/payment/{key}", {"signal": {"name": "paid"}})
        await stands(it, "/v1/sagas/payment/2", "compensated")
        await it.ask("POST", "/v1/sagas/nothing", {"key": "4"}, query="wait=5")
        assert (await it.ask("POST", ONE, {"skip": {}})).problem == "conflict"
        for _ in range(9):  # it pauses for long in between
            await it.ask("POST", ONE, {"retry": {}}, query="wait=0.05")
        found = await stands(it)
        assert (found["step"], found["backwards"], found["cause"]) == ("pay", True, "failed")
        assert found["error"] == "OSError: no such account"
        assert [each["outcome"] for each in found["done"]] == ["done"]
        assert (await it.ask("GET", "/v1/sagas", query="status=stuck")).json["items"] == [found]
        listed = (await it.ask("GET", "/v1/sagas", query="saga=payment")).json
        assert [each["key"] for each in listed["items"]] == ["1", "2", "3"]
        page = (await it.ask("GET", "/v1/sagas", query="limit=3")).json
        rest = (await it.ask("GET", "/v1/sagas", query={"limit": 3, "cursor": page["cursor"]})).json
        assert [each["key"] for each in page["items"] + rest["items"]] == ["4", "1", "2", "3"]
        metrics = (await it.ask("GET", "/metrics")).body.decode()
        assert "atoll_sagas_stuck 1.0" in metrics
        assert 'atoll_sagas_ended_total{status="stuck"} 1.0' in metrics
        skipped = await it.ask("POST", ONE, {"skip": {"step": "pay"}})
        assert (skipped.json["status"], skipped.json["done"][-1]["outcome"]) == ("compensated", "skipped")


async def test_an_abort_undoes() -> None:
    async with served() as it:
        await it.ask("POST", "/v1/sagas/payment", {"key": "1"})
        answer = await it.ask("POST", ONE, {"abort": {"reason": "changed my mind"}})
        assert (answer.json["status"], answer.json["cause"]) == ("compensated", "aborted")
        assert (await it.ask("POST", ONE, {"abort": {}})).status == 409


async def test_a_signal_that_is_sent_again_counts_once() -> None:
    async with served() as it:
        await it.ask("POST", "/v1/sagas/payment", {"key": "1"})
        for name in ("ann", "bob"):
            signal = {"signal": {"name": "paid", "value": name}}
            answer = await it.ask("POST", ONE, signal, query="wait=5", idempotency_key="one")
            assert answer.status == 200
        assert (await it.ask("GET", "/v1/profile/1")).json["value"] == {"name": "ann"}


async def test_what_cannot_be_is_refused() -> None:
    async with served() as it:
        await it.ask("POST", "/v1/sagas/payment", {"key": "1"})
        for method, path, body, problem in (
            ("POST", "/v1/sagas/paymnt", {"key": "1"}, "unknown-saga"),
            ("POST", "/v1/sagas/payment", {"key": ""}, "invalid-key"),
            ("POST", "/v1/sagas/payment", {"key": "9", "fields": {"amount": "x"}}, "invalid-document"),
            ("POST", "/v1/sagas/payment", {"key": "9", "fields": {"nobody": 1}}, "unknown-field"),
            ("POST", "/v1/sagas/payment", {"key": "9", "fields": []}, "invalid-document"),
            ("POST", "/v1/sagas/payment", {"fields": {}}, "malformed-request"),
            ("GET", "/v1/sagas/payment/2", b"", "not-found"),
            ("GET", "/v1/sagas/unheard/2", b"", "not-found"),
            ("POST", "/v1/sagas/payment/2", {"retry": {}}, "not-found"),
            ("POST", ONE, {}, "malformed-request"),
            ("POST", ONE, {"retry": {}, "skip": {}}, "malformed-request"),
            ("POST", ONE, {"signal": {"name": "payd"}}, "invalid-operation"),
            ("POST", ONE, {"retry": {}}, "conflict"),
            ("GET", "/v1/sagas?status=lost", b"", "malformed-request"),
            ("GET", "/v1/sagas?saga=A", b"", "malformed-request"),
            ("GET", "/v1/sagas?cursor=YQ", b"", "invalid-cursor"),
        ):
            asked, _, query = path.partition("?")
            answer = await it.ask(method, asked, body, query=query)
            assert answer.problem == problem, (method, path, body)
