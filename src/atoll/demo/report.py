"""The proof as tables, and as JSON."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from atoll.demo.findings import Findings
from atoll.demo.ledger import Ledger
from atoll.demo.nemesis import PHASES
from atoll.demo.proof import Check, conflict_counts

_WRONG_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Report:
    """The outcome of a run."""

    checks: Sequence[Check]
    ledger: Ledger
    findings: Sequence[Findings]
    lags: dict[str, dict[str, float]]
    """phase → percentiles of the time from acknowledged to visible elsewhere."""
    events: Sequence[tuple[float, str]]
    took_s: float

    @property
    def ok(self) -> bool:
        return all(check.ok for check in self.checks)

    def as_json(self) -> dict[str, Any]:
        return {
            "ok": self.ok,
            "took_s": round(self.took_s, 1),
            "checks": [
                {"name": check.name, "ok": check.ok, "told": check.told, "wrong": list(check.wrong)}
                for check in self.checks
            ],
            "shop": self.ledger.summary(),
            "regions": {
                each.region: {"position": each.position, "collections": each.digests}
                for each in self.findings
            },
            "conflicts": conflict_counts(self.findings[0].conflicts),
            "replication_lag": self.lags,
            "events": [{"at_s": round(moment, 1), "what": text} for moment, text in self.events],
        }

    def print(self, console: Console) -> None:
        console.print(documents_table(self.findings))
        console.print(conflicts_table(self.findings[0].conflicts))
        console.print(lag_table(self.lags))
        console.print(shop_line(self.ledger))
        console.print(checks_table(self.checks))
        failed = sum(1 for check in self.checks if not check.ok)
        verdict = (
            f"[bold red]{failed} of {len(self.checks)} proofs failed.[/]"
            if failed
            else f"[bold green]All {len(self.checks)} proofs hold.[/]"
        )
        console.print(f"{verdict} {self.took_s:.0f} s in all.")


def documents_table(findings: Sequence[Findings]) -> Table:
    counts = [f"documents in {each.region}" for each in findings]
    digests_of = [f"digest in {each.region}" for each in findings]
    title = "Documents and digests, as each region answers"
    table = _table(title, "collection", *counts, *digests_of, right=counts)
    for collection in findings[0].digests:
        digests = [each.digests.get(collection, {"documents": 0, "digest": ""}) for each in findings]
        equal = len({digest["digest"] for digest in digests}) == 1
        style = "" if equal else "[red]"
        table.add_row(
            collection,
            *(str(digest["documents"]) for digest in digests),
            *(f"{style}{digest['digest'][:12]}" for digest in digests),
        )
    return table


def conflicts_table(conflicts: Sequence[dict[str, Any]]) -> Table:
    shown = {
        "kind": "kind",
        "collection": "collection",
        "strategy": "strategy",
        "the losing value was": "outcome",
        "status": "status",
        "count": "count",
        "within clock uncertainty": "within_clock_uncertainty",
    }
    right = ("count", "within clock uncertainty")
    table = _table("Conflicts found, and how they were resolved", *shown, right=right)
    for group in conflict_counts(conflicts):
        table.add_row(*(str(group[name]) for name in shown.values()))
    return table


def lag_table(lags: dict[str, dict[str, float]]) -> Table:
    right = ("marks", "p50", "p99", "longest")
    title = "Replication lag: acknowledged in one region → in another one's change feed"
    table = _table(title, "while", *right, right=right)
    for phase in PHASES:
        if phase in lags:
            lag = lags[phase]
            times = [f"{lag[name]:.0f} ms" for name in ("p50_ms", "p99_ms", "max_ms")]
            table.add_row(phase, f"{lag['marks']:.0f}", *times)
    return table


def shop_line(ledger: Ledger) -> str:
    shop = ledger.summary()
    latencies = ", ".join(f"{region} {p50} ms" for region, p50 in shop["write_p50_ms"].items())
    left = f" Baskets that came after closing: {shop['baskets_left']}." if shop["baskets_left"] else ""
    return (
        f"{shop['baskets']} baskets, {shop['orders']} orders ({shop['orders_forwarded']} placed away from home), "
        f"{shop['units_sold']} units; {shop['lines_sold_out']} lines refused as sold out, {shop['lines_out_of_reach']} "
        f"because the rest was out of reach.{left} "
        f"Write p50 seen by customers: {latencies}."
    )


def checks_table(checks: Sequence[Check]) -> Table:
    table = _table("Proof, computed from what the regions answered", "", "claim", "figures")
    for check in checks:
        told = escape(check.told)
        if check.wrong:
            told += "".join(f"\n[red]{escape(each[:300])}[/]" for each in check.wrong[:_WRONG_SHOWN])
            if len(check.wrong) > _WRONG_SHOWN:
                told += f"\n[red]and {len(check.wrong) - _WRONG_SHOWN} more[/]"
        table.add_row("[green]✓[/]" if check.ok else "[bold red]✗[/]", check.name, told)
    return table


def _table(title: str, *columns: str, right: Collection[str] = ()) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return table
