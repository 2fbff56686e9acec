"""The `atoll` command."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from atoll.cli.backup import backup, restore
from atoll.cli.bulk import export, import_
from atoll.cli.conflicts import conflicts
from atoll.cli.demo import demo
from atoll.cli.events import events
from atoll.cli.init import init
from atoll.cli.region import region_commands
from atoll.cli.sagas import saga_commands
from atoll.cli.serve import serve
from atoll.cli.status import status
from atoll.cli.verify import verify
from atoll.config.version import VERSION

app = typer.Typer(
    name="atoll",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Active-active, multi-region data: every region writable, one coherent answer.",
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"atoll {VERSION}")
        raise typer.Exit


@app.callback()
def atoll(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Active-active, multi-region data: every region writable, one coherent answer."""


for each in (demo, init, serve, status, verify, conflicts, events):
    app.command(each.__name__)(each)
app.command("import")(import_)
app.command("export")(export)
app.command("backup")(backup)
app.command("restore")(restore)
app.add_typer(region_commands, name="region")
app.add_typer(saga_commands, name="sagas")

_OTHERS = {each.name for each in app.registered_commands} | {each.name for each in app.registered_groups}
if not _OTHERS & {*sys.argv[1:2]}:  # they are spared the time and the memory that the simulator takes
    from atoll.cli.simulate import simulate

    app.command()(simulate)

if __name__ == "__main__":
    app(prog_name="atoll")
