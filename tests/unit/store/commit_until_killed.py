"""Run by test_sqlite_crash: commit for ever, and print each seq once its commit has returned."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from atoll.store.port import AuditRow, Commit, Segment, Wanted
from atoll.store.sqlite.store import open_sqlite


async def main(folder: Path) -> None:
    store = open_sqlite(folder, region="tokyo", deployment="shop")
    await store.open_collections(["note"])
    seq = (await store.positions()).get("tokyo", 0)
    while True:
        first, seq = seq + 1, seq + 1 + seq % 3  # runs of 1, 2 and 3 entries
        span = range(first, seq + 1)
        async with store.begin(Wanted()) as transaction:
            await transaction.commit(
                Commit(
                    documents={"note": [(f"k{n:08}", b'{"n":%d}' % n, b"x" * 900) for n in span]},
                    segments=[Segment("tokyo", first, seq, b"entry" * len(span))],
                    positions={"tokyo": seq},
                    clock=seq,
                    states={("seq", f"{n % 7}"): b"%d" % n for n in span},
                    audit=[
                        AuditRow(f"c{n:08}", "note", "k", "", "k", "open", n, "a", "b", "lww", False, b"{}")
                        for n in span
                    ],
                )
            )
        sys.stdout.write(f"{seq}\n")
        sys.stdout.flush()
        if seq % 50 == 0:
            await store.checkpoint()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
