"""`atoll status`: every region's position, links, lag and conflicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import typer

from atoll.cli.terminal import FAILURE, ConfigOption, JsonOption, command, console, print_json, table, waiting
from atoll.errors import AtollError

if TYPE_CHECKING:
    from rich.table import Table

    from atoll.cli.regions import Node


@command
def status(config: ConfigOption = "atoll.toml", as_json: JsonOption = False) -> None:
    """Show all regions, and each node of those with several: serving, positions, links, conflicts, who votes.

    Exit code 1 when one is silent.
    """
    from atoll.cli.regions import Regions, open_config

    settings = open_config(config)
    names = (*settings.region_names, *settings.witness_names)
    with waiting(f"asking {', '.join(names)}"):
        found = Regions(settings).ask_nodes("/admin/status", among=names)
    if as_json:
        print_json({"deployment": settings.name, "regions": _by_region(found)})
    else:
        several = {node.region for node in found if node.number > 1}
        named = {
            f"{node.region} {node.number}" if node.region in several else node.region: node for node in found
        }
        out = console()
        out.print(regions_table(named))
        out.print(links_table(named))
        if any(_registers(answer) for *_, answer in named.values()):
            out.print(registers_table(named))
        if any(_unfinished(answer) for *_, answer in named.values()):
            out.print(builds_table(named))
        if any(_scarcest(answer) for *_, answer in named.values()):
            out.print(rights_table(named))
    if any(isinstance(node.answer, AtollError) for node in found):
        raise typer.Exit(FAILURE)


def _by_region(found: Sequence[Node]) -> dict[str, Any]:
    """Of each region what the first node says that answers; under `nodes` what each does, where there are several."""
    regions: dict[str, Any] = {}
    for name in dict.fromkeys(node.region for node in found):
        nodes = [node for node in found if node.region == name]
        first = next((node for node in nodes if not isinstance(node.answer, AtollError)), nodes[0])
        regions[name] = _as_json(first)
        if len(nodes) > 1:
            regions[name]["nodes"] = [_as_json(node) for node in nodes]
    return regions


def _as_json(node: Node) -> dict[str, Any]:
    if isinstance(node.answer, AtollError):
        return {"url": node.url, "error": node.answer.message}
    return {"url": node.url, **node.answer}


def regions_table(found: Mapping[str, Node]) -> Table:
    """A row for each region, or node of one, by name."""
    right = ("writes", "conflicts", "inbox", "journal", "clock ±ms")
    made = table("Regions", "region", "url", "serves", "position", *right, right=right)
    for name, (_, _, url, answer) in found.items():
        if isinstance(answer, AtollError):
            made.add_row(name, url, "[red]no answer[/]", *["–"] * 6)
            continue
        counted, inbox = answer["counted"], answer["inbox"]
        held = f" held: {inbox['held']}" if inbox["held"] else ""
        made.add_row(
            name,
            url,
            _serves(answer),
            " ".join(f"{origin} {seq}" for origin, seq in sorted(answer["position"].items())) or "empty",
            str(counted["writes"]),
            str(sum(counted["conflicts"].values())),
            f"{inbox['entries']}{held}",
            _journal(answer["journal"]),
            _clock(answer),
        )
    return made


def _journal(journal: dict[str, Any]) -> str:
    """How large it is, and from when on it holds everything."""
    size = f"{journal['bytes'] / 1e6:,.1f} MB"
    if journal["oldest_ms"] is None:
        return size
    return f"{size}\nsince {datetime.fromtimestamp(journal['oldest_ms'] / 1000, UTC):%Y-%m-%d %H:%MZ}"


def _clock(answer: dict[str, Any]) -> str:
    """How far off it may be, and whether that is assumed."""
    clock = answer.get("clock")
    if clock is None:  # from an older node
        return str(answer["uncertainty_ms"])
    if not clock["agreed"]:
        return "[yellow]disputed[/]"
    return f"{clock['error_ms']} assumed" if clock["assumed"] else str(clock["error_ms"])


def _serves(answer: dict[str, Any]) -> str:
    if answer["region"] in answer.get("witnesses", ()):
        return "a witness"
    if not answer["serving"]:
        return f"[red]no: {answer['out_of_service']}[/]"
    return "\n".join(["yes", *(f"[yellow]{warning}[/]" for warning in answer.get("warnings", []))])


def links_table(found: Mapping[str, Node]) -> Table:
    """A row for each direction of each link, seen from its receiving end."""
    right = ("lag", "behind", "propagation p50", "round trip")
    columns = ("region", "from", "state", *right, "relays", "last error")
    made = table("Links (what a region pulls from a peer)", *columns, right=right)
    for name, (*_, answer) in found.items():
        if isinstance(answer, AtollError):
            continue
        cut = (answer.get("emulated") or {}).get("cut", [])
        for peer, link in answer["links"].items():
            state = "connected" if link["connected"] else "[red]cut[/]" if peer in cut else "[red]down[/]"
            if link["connected"] and not link["held"]:
                state = "another node pulls"
            made.add_row(
                name,
                peer,
                state,
                _measure(link["lag_s"], " s"),
                str(link["behind"]),
                _measure(link["propagation_p50_ms"], " ms"),
                _measure(link["round_trip_ms"], " ms"),
                ", ".join(link["relays"]) or "–",
                "" if link["connected"] else link["last_error"] or "",
            )
    return made


def _registers(answer: Any) -> dict[str, Any] | None:
    """None of a region that is silent, decides nothing by majority, or is older."""
    return None if isinstance(answer, AtollError) else answer.get("registers")


def registers_table(found: Mapping[str, Node]) -> Table:
    """A row for each region, or node of one, by name."""
    right = ("proposals", "beaten", "changes combined")
    columns = ("region", "votes", "waits for", "acceptors", "majority", *right, "undecided")
    made = table("Strong documents (decided by a majority of regions)", *columns, right=right)
    for name, (*_, answer) in found.items():
        registers = _registers(answer)
        if registers is None:
            continue
        voting, reason = registers["voting"], registers["reason"]
        votes = "yes" if voting else "[red]no[/]"
        made.add_row(
            name,
            votes if reason is None else f"{votes}: {reason}",
            ", ".join(registers["waits_for"]) or "–",
            _acceptors(registers),
            "–" if answer["region"] in answer.get("witnesses", ()) else _majority(registers),
            *(str(registers[each]) for each in ("proposals", "lost", "combined")),
            str(registers.get("undecided", 0)),
        )
    return made


def _acceptors(registers: dict[str, Any]) -> str:
    """Empty where the region is older."""
    names = ", ".join(registers.get("acceptors", ()))
    return f"{names} (changing)" if registers.get("changing") else names


def _majority(registers: dict[str, Any]) -> str:
    return "[red]cut off[/]" if registers.get("cut_off") else "reached"


def _unfinished(answer: Any) -> list[dict[str, Any]]:
    """Empty of a region that is silent, has all that its fields need, or is older."""
    if isinstance(answer, AtollError):
        return []
    return [each for each in answer.get("builds", ()) if each["state"] != "whole" or each["conflicts"]]


def builds_table(found: Mapping[str, Node]) -> Table:
    """A row for each field whose documents were written before it was declared so, as a region sees it."""
    right = ("documents", "conflicts")
    columns = ("region", "field", "what", "state", "waits for", *right)
    made = table("Fields that were declared later", *columns, right=right)
    for name, (*_, answer) in found.items():
        for build in _unfinished(answer):
            state = build["state"]
            made.add_row(
                name,
                build["field"],
                build["kind"],
                state if state == "whole" else f"[yellow]{state}[/]",
                ", ".join(build["waits_for"]) or "–",
                str(build["looked"]),
                str(build["conflicts"]),
            )
    return made


def _scarcest(answer: Any) -> list[dict[str, Any]]:
    """Empty of a region that is silent, follows no bounded counter, or is older."""
    if isinstance(answer, AtollError):
        return []
    found: list[dict[str, Any]] = (answer.get("rights") or {}).get("scarcest", [])
    return found


def rights_table(found: Mapping[str, Node]) -> Table:
    """A row for each of a region's scarcest bounded counters, as it sees all regions' rights."""
    right = ("left", "spent here", "lasts here")
    made = table(
        "Rights (bounded counters that are scarcest)", "region", "counter", *right, "held by", right=right
    )
    for name, (*_, answer) in found.items():
        for counter in _scarcest(answer):
            made.add_row(
                name,
                "/".join((counter["collection"], counter["key"], counter["field"])),
                str(counter["left"]),
                f"{counter['spent_per_s'].get(answer['region'], 0)}/s",
                _measure(counter["lasts_s"], " s"),
                " ".join(f"{region} {held}" for region, held in sorted(counter["held"].items())),
            )
    return made


def _measure(value: float | None, unit: str) -> str:
    return "–" if value is None else f"{round(value, 2)}{unit}"
