"""Plots as SVG: small, readable as text, and the same bytes for the same figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

_SETTINGS: Any = {
    "svg.hashsalt": "atoll",  # else every element's id is new
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
}
_OURS, _THEIRS = "#0b6e8f", "#b9b9b9"
_COLOURS = (_OURS, "#d1662e", "#6a8f3c", "#7a5ea8")
_WIDTH_INCHES = 6.4


def lines(path: Path, curve: Mapping[str, Any]) -> None:
    """One curve, as `bench.figures.Curve` puts it into JSON."""
    with _axes(path, 3.4) as axes:
        for colour, (label, points) in zip(_COLOURS, curve["lines"].items(), strict=False):
            marker = "o" if len(points) < 20 else ""
            axes.plot(*zip(*points, strict=True), color=colour, marker=marker, markersize=4, label=label)
        axes.set_title(curve["title"], loc="left", fontsize=11)
        axes.set_xlabel(curve["x"])
        axes.set_ylabel(curve["y"])
        if curve["log_x"]:
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(FuncFormatter(_thousands))
        if curve["log_y"]:
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(FuncFormatter(_thousands))
        if len(curve["lines"]) > 1:
            axes.legend(frameon=False)


def bars(path: Path, title: str, unit: str, found: Sequence[tuple[str, float, bool]]) -> None:
    """(label, value, whether it is Atoll's), from the top."""
    with _axes(path, 0.9 + 0.33 * len(found)) as axes:
        labels = [label for label, _, _ in found]
        values = [value for _, value, _ in found]
        drawn = axes.barh(
            range(len(found)), values, color=[_OURS if ours else _THEIRS for _, _, ours in found]
        )
        axes.bar_label(drawn, labels=[_thousands(value) for value in values], padding=3, fontsize=9)
        axes.set_yticks(range(len(found)), labels)
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.margins(x=0.12)
        axes.set_title(title, loc="left", fontsize=11)
        axes.set_xlabel(unit)
        axes.xaxis.set_major_formatter(FuncFormatter(_thousands))


@contextmanager
def _axes(path: Path, height_inches: float) -> Iterator[Axes]:
    with mpl.rc_context(_SETTINGS):
        figure = Figure(figsize=(_WIDTH_INCHES, height_inches), layout="constrained")
        yield figure.add_subplot()
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})


def _thousands(value: float, _position: int | None = None) -> str:
    return f"{value:,.0f}" if abs(value) >= 10 or value == round(value) else f"{value:.3g}"
