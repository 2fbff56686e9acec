"""The layers of `src/atoll`, from the bottom up: a package imports only from packages above it in this list.

`tests/test_layering.py` holds the code to it. `python -m tests.layers` writes the table of folders in
docs/architecture.md from it.
"""

from __future__ import annotations

from pathlib import Path

LAYERS: tuple[tuple[str, str], ...] = (
    ("errors", "one tree of errors; each has a status, a type, and says whether it is definite"),
    ("causality", "hybrid logical clock, version vectors, session tokens, clock uncertainty"),
    (
        "membership",
        "which regions there are, a value with an epoch; and who has the rights of those that left",
    ),
    ("lattices", "counter, bounded counter, set, list, text: see [mergeable fields](lattices.md)"),
    ("schema", "declarations: fields, policy, placement; checks of documents"),
    ("store", "the ports of a store in `store/port.py`; SQLite, PostgreSQL and memory, a folder each"),
    ("config", "atoll.toml, the deployment's key, the version"),
    ("documents", "registers, strategies, documents, journal entries, mutations"),
    ("conflicts", "audit records; the guard around a team's conflict function"),
    ("commit", "one group commit as data: the batch and its drafts"),
    (
        "consensus",
        "registers that a majority of regions decides: acceptors and their sets, rounds, voters, values",
    ),
    ("ids", "[identifiers](ids.md)"),
    ("sagas", "what happens next in a [saga](sagas.md): its instance, and a pure step"),
    (
        "replication",
        "messages between regions, frames, seal, links, inbox, snapshots; HTTP and emulated distance",
    ),
    ("ownership", "which region may write; escrow of bounded counters"),
    ("repair", "digests that compare regions"),
    ("protocol", "the form of a protocol: a pure step, its effects and their outcomes"),
    (
        "recovery",
        "start-up check, node leases, relays, restore, failover and snapshot install, as pure steps",
    ),
    ("rollout", "documents follow new declarations"),
    (
        "region",
        "`Region`: group commit, reads, writes and their waits, feed, clocks, health, maintenance",
    ),
    ("client", "asynchronous and synchronous [client](client.md) from one core without I/O"),
    ("http", "ASGI over a `Region`: documents, feed, audit, admin, metrics, OpenAPI"),
    ("node", "`Node`, the composition root of production; listening and serving"),
    ("embedded", "`atoll.open`: a region in the application's own process"),
    ("bulk", "[import and export](bulk.md)"),
    ("backup", "[backup and restore](backup.md)"),
    ("histories", "recorded [histories](histories.md), and checkers of what was promised about them"),
    ("testing", "a deployment in one process on virtual time; a real PostgreSQL for tests"),
    ("simulation", "workloads, faults and an oracle on top of `testing`: see [simulation](simulation.md)"),
    ("demo", "three regions, a shop, faults, and a proof"),
    ("cli", "commands; templates for `atoll init`"),
)

PAGE = Path(__file__).parents[1] / "docs" / "architecture.md"
BEGIN, END = "<!-- layers: begin -->", "<!-- layers: end -->"


def table() -> str:
    """The table of folders as Markdown."""
    rows = [
        f"| `{name}.py` | {holds} |" if name == "errors" else f"| `{name}/` | {holds} |"
        for name, holds in LAYERS
    ]
    return "\n".join(["| in `src/atoll` | holds |", "|---|---|", *rows])


def with_table(page: str) -> str:
    """The page with the table between its marks made anew."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text("utf-8")), "utf-8")
