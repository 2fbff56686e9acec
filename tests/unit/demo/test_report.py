from __future__ import annotations

import io
import json

from rich.console import Console

from atoll.demo.findings import Findings
from atoll.demo.ledger import Ledger
from atoll.demo.proof import Check
from atoll.demo.report import Report

GOOD = Check("no order lost", "12 orders")
BAD = Check("never oversold", "3 sold", tuple(f"sku [{number}]: oversold" for number in range(7)))


def report(*checks: Check) -> Report:
    found = [
        Findings(region, digests={"order": {"documents": 12, "digest": digest * 32}})
        for region, digest in (("tokyo", "a"), ("frankfurt", "b"))
    ]
    lags = {"before": {"marks": 4.0, "p50_ms": 80.0, "p99_ms": 120.0, "max_ms": 120.0}}
    return Report(checks, Ledger(), found, lags, [(1.0, "serving")], 61.2)


def printed(made: Report) -> str:
    console = Console(file=io.StringIO(), width=140)
    made.print(console)
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def test_one_failure_fails_the_report() -> None:
    assert report(GOOD).ok
    assert not report(GOOD, BAD).ok


def test_tables_show_figures_and_verdict() -> None:
    text = printed(report(GOOD))
    for shown in ("✓", "12 orders", "documents in tokyo", "120 ms", "All 1 proofs hold. 61 s in all."):
        assert shown in text


def test_failure_shows_what_is_wrong_and_how_much_more() -> None:
    text = printed(report(GOOD, BAD))
    for shown in ("✗", "sku [0]: oversold", "and 2 more", "1 of 2 proofs failed."):
        assert shown in text


def test_json_holds_everything_that_is_wrong() -> None:
    found = json.loads(json.dumps(report(GOOD, BAD).as_json()))
    assert found["ok"] is False
    assert [len(check["wrong"]) for check in found["checks"]] == [0, 7]
    assert found["regions"]["tokyo"]["collections"]["order"]["documents"] == 12
