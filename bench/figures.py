"""What was measured, what it was held against, and the table and the JSON that say so.

A measure returns figures and curves. What could not be measured is a figure too: it says why.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
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
            else f"{sign} {number(bound)}" + ("×" if self.of == "ratio" else "")
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
    value: float | None
    """Atoll's, the median of its rounds; None when it was not measured."""
    peer: str = ""
    """What it is compared with."""
    peer_value: float | None = None
    goal: Goal | None = None
    durability: str = ""
    """Of the peer: what it has done when it acknowledges. Atoll has always fsynced."""
    not_measured: str = ""
    """Why the figure, or the peer's, is not there."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """Plain JSON values: percentiles, statuses, the single rounds."""

    @property
    def ratio(self) -> float | None:
        """Atoll's over the peer's: a rate wants it high, a time low."""
        return self.value / self.peer_value if self.value is not None and self.peer_value else None

    @property
    def met(self) -> bool | None:
        """None where there is no goal, or nothing to hold against it."""
        return None if self.goal is None or self.not_measured else self.goal.met(self)

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
            "durability": self.durability or None,
            "not_measured": self.not_measured or None,
            "details": dict(self.details),
        }


@dataclass(frozen=True, slots=True)
class Curve:
    """How something changes with something else: lines through points."""

    name: str
    """Of its group, as of a figure."""
    slug: str
    """Of its plot's file."""
    title: str
    x: str
    """What the axes are, with units."""
    y: str
    lines: Mapping[str, Sequence[tuple[float, float]]]
    """label → points"""
    log_x: bool = False
    log_y: bool = False

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "lines": {name: [list(p) for p in line] for name, line in self.lines.items()}}


Measured = Sequence[Figure | Curve]


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
            "" if figure.value is None else f"{number(figure.value)} {figure.unit}",
            "" if figure.peer_value is None else number(figure.peer_value),
            f"not measured: {figure.not_measured}" if figure.not_measured else figure.peer,
            "" if figure.ratio is None else ratio_text(figure.ratio),
            "" if figure.goal is None else str(figure.goal),
            {None: "", True: "[green]yes[/]", False: "[red]no[/]"}[figure.met],
        )
    return table


Report = dict[str, Any]
"""What a run comes to, as JSON data: `machine`, `figures`, `curves`."""


def report_of(measured: Measured, machine: Mapping[str, Any]) -> Report:
    """Everything, for a later run to be compared with, and for `bench.page`."""
    figures = [each.as_json() for each in measured if isinstance(each, Figure)]
    curves = [each.as_json() for each in measured if isinstance(each, Curve)]
    return {"machine": dict(machine), "figures": figures, "curves": curves}


def measured_again(earlier: Report, report: Report) -> Report:
    """An earlier run, with the groups in place that were measured again, and when that was."""
    found = list(dict.fromkeys(each["name"] for each in report["figures"] + report["curves"]))
    machine = earlier["machine"]
    moment, load = report["machine"]["at"], report["machine"].get("load")
    told = moment if load is None else f"{moment}, at a load of {load[1]:g} in the last five minutes"
    again = machine.get("again", {}) | dict.fromkeys(found, told)
    merged: Report = {"machine": machine | {"again": again}}
    for kind in ("figures", "curves"):
        groups = dict.fromkeys(each["name"] for each in earlier[kind] + report[kind])
        merged[kind] = [
            each
            for group in groups
            for each in (report if group in found else earlier)[kind]
            if each["name"] == group
        ]
    return merged


def report_json(report: Report) -> str:
    return json.dumps(report, indent=2)


def number(value: float) -> str:
    """As precise as it is worth."""
    if value >= 100 or value == round(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def ratio_text(ratio: float) -> str:
    return f"{ratio:.0%}" if ratio < 1 else f"{number(ratio)}×" if ratio >= 100 else f"{ratio:.2f}×"
