"""What was measured, what it was held against, and the table and the JSON that say so."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from rich.table import Table


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound on a figure's value, or on its ratio to the peer's."""

    of: Literal["value", "ratio"]
    at_least: float | None = None
    at_most: float | None = None

    def __str__(self) -> str:
        sign, bound = ("≥", self.at_least) if self.at_least is not None else ("≤", self.at_most)
        assert bound is not None
        return (
            f"{sign} {bound:.0%}"
            if self.of == "ratio" and bound < 1
            else f"{sign} {_number(bound)}" + ("×" if self.of == "ratio" else "")
        )

    def met(self, figure: Figure) -> bool:
        """A figure that is not there meets nothing."""
        found = figure.value if self.of == "value" else figure.ratio
        if found is None or math.isnan(found):
            return False
        return (self.at_least is None or found >= self.at_least) and (
            self.at_most is None or found <= self.at_most
        )


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table."""

    name: str
    """What `--only` and the JSON call its group, such as `commit`."""
    measure: str
    unit: str
    value: float
    """Atoll's, the median of its rounds."""
    peer: str = ""
    """What it is compared with."""
    peer_value: float | None = None
    goal: Goal | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    """Plain JSON values: percentiles, statuses, the single rounds."""

    @property
    def ratio(self) -> float | None:
        """Atoll's over the peer's: a rate wants it high, a time low."""
        return self.value / self.peer_value if self.peer_value else None

    @property
    def met(self) -> bool | None:
        """None where there is no goal."""
        return None if self.goal is None else self.goal.met(self)

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "measure": self.measure,
            "unit": self.unit,
            "atoll": self.value,
            "peer": self.peer or None,
            "peer_value": self.peer_value,
            "ratio": self.ratio,
            "goal": None if self.goal is None else str(self.goal),
            "met": self.met,
            "details": dict(self.details),
        }


def table_of(figures: Sequence[Figure]) -> Table:
    """The figures as they are shown at the end."""
    table = Table(title="Atoll beside what it stands on, in one run on this machine", title_justify="left")
    for heading in ("measure", "Atoll", "peer", "", "ratio", "goal", "met"):
        table.add_column(heading, justify="right" if heading in ("Atoll", "peer", "ratio") else "left")
    group = ""
    for figure in figures:
        if group and figure.name != group:
            table.add_section()
        group = figure.name
        table.add_row(
            figure.measure,
            f"{_number(figure.value)} {figure.unit}",
            "" if figure.peer_value is None else _number(figure.peer_value),
            figure.peer,
            "" if figure.ratio is None else _ratio(figure.ratio),
            "" if figure.goal is None else str(figure.goal),
            {None: "", True: "[green]yes[/]", False: "[red]no[/]"}[figure.met],
        )
    return table


def report_json(figures: Sequence[Figure], machine: Mapping[str, Any]) -> str:
    """Everything as one JSON document, for a later run to be compared with."""
    return json.dumps(
        {"machine": dict(machine), "figures": [figure.as_json() for figure in figures]}, indent=2
    )


def _number(value: float) -> str:
    if value >= 100 or value == round(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _ratio(ratio: float) -> str:
    return f"{ratio:.0%}" if ratio < 1 else f"{ratio:.2f}×"
