"""Processes of Atoll. Each is forked from a server that has imported all of it, so none takes a second to begin.

What a process does, how it is killed and what it leaves behind is as of any other. `test_cli`, `chaos` and the examples
of the documentation run the command itself.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from atoll.config.config import load_config
from atoll.errors import AtollError
from atoll.node.serving import run

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(
    [__name__, "atoll.backup.backup", "atoll.bulk.exporting", "atoll.cli.main", "atoll.cli.regions", "uvloop"]
)


class Place(NamedTuple):
    """Where a process is, and what its files are."""

    folder: Path
    out: Path
    error: Path
    given: Path = Path(os.devnull)
    descriptors: int | None = None
    """At most; None for as many as usual."""


class Process:
    """As `subprocess.Popen`, as far as tests need it."""

    def __init__(self, place: Place, work: Callable[..., object], *arguments: object) -> None:
        """`work` can be imported."""
        self.args = arguments
        self._process = _FORKS.Process(target=_begin, args=(place, dict(os.environ), work, arguments))
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Raises subprocess.TimeoutExpired."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(list(map(str, self.args)), timeout or 0.0)
        return self._process.exitcode

    def send_signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Command(Process):
    """`atoll ARGUMENTS` in a folder. Enter it; what it says is gone when it is left."""

    def __init__(self, folder: Path, *arguments: object, given: str = "") -> None:
        self._said = TemporaryDirectory()
        self._place = Place(folder, *(Path(self._said.name, name) for name in ("out", "error", "given")))
        self._place.given.write_text(given, "utf-8")
        for file in (self._place.out, self._place.error):
            file.touch()  # it may be killed before it has opened them
        super().__init__(self._place, _atoll, *map(str, arguments))

    def __enter__(self) -> Command:
        return self

    def __exit__(self, *failure: object) -> None:
        self.kill()
        self.wait()
        self._said.cleanup()

    def communicate(self) -> tuple[str, str]:
        """What it has said by its end."""
        self.wait()
        return self._place.out.read_text("utf-8"), self._place.error.read_text("utf-8")


def atoll(folder: Path, *arguments: object, given: str = "") -> subprocess.CompletedProcess[str]:
    """Run `atoll ARGUMENTS` in a folder."""
    with Command(folder, *arguments, given=given) as command:
        out, error = command.communicate()
        return subprocess.CompletedProcess(list(command.args), command.wait(), out, error)


def serve(config: Path, region: str, node: int) -> None:
    """What a region's process does."""
    try:
        run(load_config(config), region, node_number=node)
    except AtollError as error:
        sys.exit(f"{error.type}: {error.message}")


def _begin(
    place: Place, environment: dict[str, str], work: Callable[..., object], arguments: tuple[Any, ...]
) -> None:
    os.setsid()  # Ctrl-C in the terminal is for the tests, which then end their processes themselves
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(place.folder)
    added = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    for number, path, how in ((0, place.given, os.O_RDONLY), (1, place.out, added), (2, place.error, added)):
        opened = os.open(path, how, 0o644)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115  # for as long as the process lives
    if place.descriptors is not None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (place.descriptors, place.descriptors))
    work(*arguments)


def _atoll(*arguments: str) -> None:
    from atoll.cli.main import app

    sys.argv = ["atoll", *arguments]
    app(prog_name="atoll")
