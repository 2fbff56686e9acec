"""docs/reference.md names everything that is there, and nothing that is not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
import typer.main
from prometheus_client.parser import text_string_to_metric_families

import atoll
from atoll.cli.main import app
from atoll.config.file import DeploymentSection, EmulateSection, LimitsSection, RegionSection, Section
from atoll.errors import error_classes
from atoll.http.metrics import render
from atoll.http.routes import TABLE
from atoll.ids import KINDS
from atoll.region.region import Region
from atoll.region.site import Site
from atoll.schema import application_of
from atoll.schema.policy import CONSISTENCIES, FALLBACKS, OPTIONS, STRATEGIES
from atoll.store.memory.store import MemoryStore

from ..http_reference import group_of, with_tables

PAGE = (Path(__file__).parents[2] / "docs" / "reference.md").read_text("utf-8")
CODE = set(re.findall(r"`([^`\n]+)`", PAGE))
"""Everything that stands in code marks."""


class Note(atoll.Collection):
    body: str


NOTES = application_of(Note)


def rows(heading: str) -> Iterator[list[str]]:
    """The cells of the tables below a heading."""
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    for line in section.splitlines():
        if line.startswith("| `"):
            yield [cell.strip() for cell in line.strip("|").split(" | ")]


def first_cells(heading: str) -> set[str]:
    return {cells[0].strip("` ") for cells in rows(heading)}


def test_every_route_is_described() -> None:
    described = {text for text in CODE if re.fullmatch(r"(GET|PUT|PATCH|POST|DELETE) /\S+", text)}
    assert described == {f"{route.method} {route.path}" for route in TABLE.routes}


def test_the_tables_of_calls_are_made_of_the_routes() -> None:
    assert with_tables(PAGE) == PAGE, "run `make docs`"
    assert {group_of(route) for route in TABLE.routes} == {"documents", "data", "health", "admin", "regions"}


def test_every_parameter_is_described() -> None:
    taken = {each.name for route in TABLE.routes for each in route.parameters if each.place != "path"}
    assert taken <= CODE


def test_every_problem_is_described_with_status_and_class() -> None:
    described = {(cells[0], cells[1], cells[2]) for cells in rows("Errors")}
    assert described == {(f"`{t}`", str(c.status), f"`{c.__name__}`") for t, c in error_classes().items()}


def test_every_metric_is_described() -> None:
    site = Site("tokyo", None, bytes(32), lambda: 0, Random(1), elapsed_ms=lambda: 0.0)  # type: ignore[arg-type]
    region = Region(site, ["tokyo", "frankfurt"], NOTES, MemoryStore())
    families = list(text_string_to_metric_families(render(region).decode()))
    assert first_cells("Metrics") == {f.name + ("_total" if f.type == "counter" else "") for f in families}


@pytest.mark.parametrize(
    ("prefix", "section"),
    [
        ("deployment.", DeploymentSection),
        ("deployment.limits.", LimitsSection),
        ("regions.<name>.", RegionSection),
        ("emulate.", EmulateSection),
    ],
)
def test_every_configuration_key_is_described_with_its_default(prefix: str, section: type[Section]) -> None:
    described = {cells[0].strip("`"): cells[1].strip("`") for cells in rows("atoll.toml")}
    expected = {
        f"{prefix}{name}": _default(info.default, required=info.is_required())
        for name, info in section.model_fields.items()
        if name != "limits"
    }
    assert expected.items() <= described.items()
    assert {key for key in described if key.rpartition(".")[0] + "." == prefix} == expected.keys()


def _default(value: Any, *, required: bool) -> str:
    if required:
        return "needed"
    if isinstance(value, bool):
        return str(value).lower()  # as TOML spells it
    return "none" if value is None else str(value)


def test_every_command_and_option_is_described() -> None:
    described = {
        " ".join(word for word in cells[0].strip("`").split()[1:] if word.islower()): cells[1]
        for cells in rows("Commands")
    }
    commands = dict(_commands(typer.main.get_command(app)))
    assert described.keys() == commands.keys()
    for name, command in commands.items():
        options = {option.opts[0] for option in command.params if option.param_type_name == "option"}
        assert set(re.findall(r"`(--[\w-]+)`", described[name])) == options - {"--help"}


def _commands(group: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Each command by its full name; a group stands for its commands."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", command


def test_every_public_name_is_described() -> None:
    assert {f"atoll.{name}" for name in atoll.__all__} <= CODE
    documented = {text for text in CODE if re.fullmatch(r"atoll\.[A-Za-z_]+", text)}
    assert documented - {f"atoll.{name}" for name in atoll.__all__} == {"atoll.errors", "atoll.toml"}


def test_every_declaration_option_is_described() -> None:
    assert set(OPTIONS) <= first_cells("Declarations")
    for value in (*CONSISTENCIES, *STRATEGIES, *FALLBACKS):
        assert f'"{value}"' in CODE
    assert set(KINDS) <= CODE
