"""`atoll forgo`: after a failover, no region waits any longer for a peer that is gone for good."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from atoll.cli.terminal import FAILURE, ConfigOption, JsonOption, command, print_json, tell, waiting
from atoll.errors import AtollError, InvalidOperation, RegionUnreachable

if TYPE_CHECKING:
    from atoll.cli.regions import Node, Regions
    from atoll.config.config import Config


@command
def forgo(
    peer: Annotated[str, typer.Argument(help="The region that is gone for good.")],
    *,
    region: Annotated[
        str | None,
        typer.Option("--region", "-r", help="Who is not to wait for it; without it, every other region."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask whether PEER is really gone.")] = False,
    config: ConfigOption = "atoll.toml",
    as_json: JsonOption = False,
) -> None:
    """Do not wait for PEER after a failover: it is gone for good, and so is what it alone held.

    Every node is told. Exit code 1 unless one of each region has taken it.
    """
    from atoll.cli.regions import Regions, open_config

    settings = open_config(config)
    told = _told(settings, peer, region)
    regions = Regions(settings)
    _check_gone(regions, peer)
    if not yes:
        typer.confirm(
            f"Is {peer} gone for good? {', '.join(told)} will take writes without having heard it:"
            f" writes that were acknowledged, and that {peer} alone still holds, are lost then. Go on?",
            abort=True,
            err=True,
        )
    with waiting(f"telling {', '.join(told)}"):
        found = regions.ask_nodes("/admin/forgo", among=told, body={"peer": peer, "gone": True})
    taken = _taken(found)
    if as_json:
        print_json({"gone": peer, "regions": {name: name in taken for name in told}})
    else:
        for name in taken:
            typer.echo(f"{name} does not wait for {peer}.")
    for node in found:
        if isinstance(node.answer, AtollError):
            tell(f"atoll: {node.answer.message}")
    if len(taken) < len(told):
        raise typer.Exit(FAILURE)


def _told(settings: Config, peer: str, region: str | None) -> list[str]:
    """Raises ConfigError for what is no region, and InvalidOperation."""
    gone = settings.region(peer).name
    told = [name for name in settings.region_names if name != gone]
    if region is not None:
        told = [name for name in told if name == settings.region(region).name]
    if not told:
        raise InvalidOperation(f"{peer} cannot be told to go on without itself")
    return told


def _check_gone(regions: Regions, peer: str) -> None:
    """Raises InvalidOperation when it answers: what it holds can still come back."""
    with waiting(f"looking whether {peer} answers"):
        found = regions.ask_nodes("/health/live", among=[peer])
    for node in found:
        if not isinstance(node.answer, RegionUnreachable):
            raise InvalidOperation(
                f"{peer} answers at {node.url}, so it is not gone: regions that reach it need no word from you"
            )


def _taken(found: Sequence[Node]) -> list[str]:
    return list(dict.fromkeys(node.region for node in found if not isinstance(node.answer, AtollError)))
