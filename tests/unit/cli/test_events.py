from __future__ import annotations

from typing import Any

from atoll.cli.events import events_table, read_events


class Regions:
    """Pages of two events each."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.asked: list[dict[str, str]] = []

    def ask_first(
        self, path: str, parameters: dict[str, str], *, only: str | None
    ) -> tuple[str, dict[str, Any]]:
        assert path == "/v1/events"
        assert only == ("tokyo" if self.asked else None)
        self.asked.append(parameters)
        first = int(parameters.get("cursor", "0"))
        last = min(first + 2, self.count)
        items = [{"id": str(number)} for number in range(first, last)]
        return "tokyo", {"items": items, "cursor": str(last) if last < self.count else None}


def test_the_newest_are_listed_oldest_first() -> None:
    regions = Regions(7)
    name, items = read_events(regions, None, {"kind": "link-up"}, 3)  # type: ignore[arg-type]
    assert (name, [each["id"] for each in items]) == ("tokyo", ["4", "5", "6"])
    assert all(asked["kind"] == "link-up" for asked in regions.asked)
    assert [each["id"] for each in read_events(Regions(5), None, {}, 0)[1]] == list("01234")  # type: ignore[arg-type]


def test_a_row_says_what_was_joined_and_left_out() -> None:
    event = {
        **{"kind": "change-parked", "region": "tokyo", "node": "n1", "peer": "frankfurt"},
        **{"at_ms": 1_800_000_000_000, "detail": "note/k", "count": 12, "left_out": 3},
    }
    table = events_table("tokyo", [event, {**event, "count": 1, "left_out": 0, "at_ms": 10**18}])
    rows = list(zip(*(column.cells for column in table.columns), strict=True))
    assert rows[0] == (
        *("2027-01-15 08:00:00", "tokyo n1", "change-parked ×12", "frankfurt"),
        "note/k; 3 events before it were left out",
    )
    assert rows[1][0] == f"{10**18} ms"
    assert rows[1][2:] == ("change-parked", "frankfurt", "note/k")
