"""What every command shares: JSON on stdout, words on stderr, and errors as one line and an exit code."""

from __future__ import annotations

import functools
import json
import sys
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec, TypeVar

import typer

from atoll.errors import AtollError, ConfigError, DeclarationError, RequestError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

P = ParamSpec("P")
T = TypeVar("T")

USAGE = 2
"""Exit code for what the caller has to correct: options, atoll.toml, declarations."""
FAILURE = 1
"""Exit code for everything else that did not work."""
_PIPE_WIDTH = 200
_QUIET_S = 2.0

ConfigOption = Annotated[
    str, typer.Option("--config", "-c", help="Where the regions are.", metavar="FILE", show_default=True)
]
AnyRegionOption = Annotated[
    str | None,
    typer.Option("--region", "-r", help="Whom to ask; without it, the first region that answers."),
]
SinceOption = Annotated[
    str | None, typer.Option("--since", help="ISO 8601 with a time zone, or unix milliseconds.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on stdout.")]


def command(function: Callable[P, T]) -> Callable[P, T]:
    """Make an AtollError one line on stderr and an exit code."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except AtollError as error:
            tell(f"atoll: {error.message}")
            raise typer.Exit(exit_code(error)) from None

    return run


def exit_code(error: AtollError) -> int:
    return USAGE if isinstance(error, ConfigError | DeclarationError | RequestError) else FAILURE


def tell(text: str) -> None:
    """A line on stderr, where it cannot spoil what a program reads."""
    typer.echo(" ".join(text.split("\n")), err=True)


def print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def table(title: str, *columns: str, right: Collection[str] = (), whole: Collection[str] = ()) -> Table:
    """Columns in `right` are aligned to that side, those in `whole` are never wrapped."""
    from rich.table import Table

    made = Table(title=title, title_justify="left")
    for column in columns:
        made.add_column(
            column, justify="right" if column in right else "left", overflow="fold", no_wrap=column in whole
        )
    return made


def given(**options: str | None) -> dict[str, str]:
    """Those that were given, as parameters of a request."""
    return {name: value for name, value in options.items() if value is not None}


def moment(ms: int) -> str:
    """Unix milliseconds, for people."""
    try:
        return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, ValueError, OSError):
        return f"{ms} ms"


def console() -> Console:
    """For tables on stdout; wide where no terminal bounds it, so that nothing is cut off in a pipe."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH, highlight=False)


@contextmanager
def waiting(text: str) -> Iterator[None]:
    """Show on stderr what is going on: at once on a terminal, elsewhere one line when it takes long."""
    if sys.stderr.isatty():
        from rich.console import Console

        with Console(stderr=True).status(text):
            yield
        return
    late = threading.Timer(_QUIET_S, tell, (f"{text} …",))
    late.daemon = True
    late.start()
    try:
        yield
    finally:
        late.cancel()
