"""A node that begins its region's transaction, and goes on when it is told to: `transaction_until_killed.py URL`."""

from __future__ import annotations

import asyncio
import sys

from atoll.errors import AtollError
from atoll.store.port import Commit, Segment, Wanted
from atoll.store.postgresql.store import open_postgresql


async def main(url: str) -> None:
    store = open_postgresql(url, region="tokyo", deployment="shop")
    await store.open_collections(["note"])
    store.crowded_until_s = float("inf")  # as after a lost transaction: it takes the lock
    try:
        async with store.begin(Wanted()) as transaction:
            print("has the transaction", flush=True)
            sys.stdin.readline()
            await transaction.commit(
                Commit(
                    documents={"note": [("late", b"{}", b"")]},
                    segments=[Segment("tokyo", 1, 1, b"late")],
                    positions={"tokyo": 1},
                )
            )
        print("committed", flush=True)
    except AtollError as error:
        print(type(error).__name__, flush=True)
    await store.close()


asyncio.run(main(sys.argv[1]))
