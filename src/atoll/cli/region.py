"""`atoll region`: commands that concern one region of the deployment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from atoll.cli.terminal import FAILURE, ConfigOption, JsonOption, command, print_json, tell, waiting
from atoll.errors import AtollError, InvalidOperation, RegionUnreachable

if TYPE_CHECKING:
    from atoll.cli.regions import Regions
    from atoll.config.config import Config

region_commands = typer.Typer(no_args_is_help=True, help="Commands that concern one region.")


@region_commands.command()
@command
def forget(
    peer: Annotated[str, typer.Argument(help="The region that is permanently lost.")],
    *,
    region: Annotated[
        str | None,
        typer.Option("--region", "-r", help="The region that stops waiting. Default: every other region."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    config: ConfigOption = "atoll.toml",
    as_json: JsonOption = False,
) -> None:
    """Stop waiting for PEER after a failover. Data that only PEER held is lost.

    Sends the request to every node. Exit code 1 unless one node of each region accepted it.
    """
    from atoll.cli.regions import Regions, open_config

    settings = open_config(config)
    names = _recipients(settings, peer, region)
    regions = Regions(settings)
    _check_gone(regions, peer)
    if not yes:
        typer.confirm(
            f"Is {peer} permanently lost? {', '.join(names)} will accept writes without its answer."
            f" Acknowledged writes that only {peer} holds are then lost. Continue?",
            abort=True,
            err=True,
        )
    with waiting(f"sending the request to {', '.join(names)}"):
        found = regions.ask_nodes("/admin/forget", among=names, body={"peer": peer, "gone": True})
    accepted = dict.fromkeys(node.region for node in found if not isinstance(node.answer, AtollError))
    if as_json:
        print_json({"gone": peer, "regions": {name: name in accepted for name in names}})
    else:
        for name in accepted:
            typer.echo(f"{name} does not wait for {peer}.")
    for node in found:
        if isinstance(node.answer, AtollError):
            tell(f"atoll: {node.answer.message}")
    if len(accepted) < len(names):
        raise typer.Exit(FAILURE)


@region_commands.command("decide-alone")
@command
def decide_alone(
    region: Annotated[str, typer.Argument(help="The region that is left, and knows most.")],
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    config: ConfigOption = "atoll.toml",
    as_json: JsonOption = False,
) -> None:
    """Have REGION decide on strong documents alone, once a majority of regions is permanently lost.

    What only other regions had decided is lost. Regions that atoll.toml names are added again when they run.
    """
    from atoll.cli.regions import Regions, open_config

    settings = open_config(config)
    name = settings.region(region).name
    if not yes:
        typer.confirm(
            f"Are most regions permanently lost? {name} will decide without them. Acknowledged writes of strong"
            " documents that only others hold are then lost. Continue?",
            abort=True,
            err=True,
        )
    with waiting(f"sending the request to {name}"):
        found = Regions(settings).tell_first("/admin/decide-alone", {"region": name}, only=name)
    if as_json:
        print_json(found)
    else:
        typer.echo(
            f"{name} decides alone. Take the lost regions out of atoll.toml, and start others to add them."
        )


def _recipients(settings: Config, peer: str, region: str | None) -> list[str]:
    """Raises ConfigError for an unknown region, and InvalidOperation."""
    gone = settings.region(peer).name
    names = [name for name in settings.region_names if name != gone]
    if region is not None:
        names = [name for name in names if name == settings.region(region).name]
    if not names:
        raise InvalidOperation(f"{peer} cannot forget itself; name another region")
    return names


def _check_gone(regions: Regions, peer: str) -> None:
    """Raises InvalidOperation if the peer answers: what it holds can still come back."""
    with waiting(f"checking whether {peer} answers"):
        found = regions.ask_nodes("/health/live", among=[peer])
    for node in found:
        if not isinstance(node.answer, RegionUnreachable):
            raise InvalidOperation(
                f"{peer} answers at {node.url}, so it is not lost. Regions that reach it recover by themselves"
            )
