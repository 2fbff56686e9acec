from __future__ import annotations

import pytest
import typer

from atoll.cli.terminal import command, exit_code, waiting
from atoll.errors import (
    AtollError,
    ConfigError,
    DeclarationError,
    RegionUnreachable,
    StoreLocked,
    UnknownCollection,
)


@pytest.mark.parametrize(
    ("error", "code"),
    [(ConfigError, 2), (DeclarationError, 2), (UnknownCollection, 2), (RegionUnreachable, 1)],
)
def test_exit_code_tells_the_callers_mistakes_from_failures(error: type[AtollError], code: int) -> None:
    assert exit_code(error("…")) == code


def test_error_becomes_one_line_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    @command
    def broken() -> None:
        raise StoreLocked("another process\nholds it")

    with pytest.raises(typer.Exit) as raised:
        broken()
    assert raised.value.exit_code == 1
    assert capsys.readouterr() == ("", "atoll: another process holds it\n")


def test_quick_work_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with waiting("asking"):
        pass
    assert capsys.readouterr() == ("", "")


def test_long_work_says_what_it_does(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Impatient:
        """A timer that is always late."""

        def __init__(self, seconds: float, function: object, args: tuple[str]) -> None:
            function(*args)  # type: ignore[operator]

        def start(self) -> None: ...

        def cancel(self) -> None: ...

    monkeypatch.setattr("threading.Timer", Impatient)
    with waiting("asking tokyo"):
        pass
    assert capsys.readouterr() == ("", "asking tokyo …\n")
