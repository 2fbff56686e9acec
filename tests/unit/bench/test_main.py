from __future__ import annotations

import json
from pathlib import Path

import pytest
from bench import __main__ as bench
from bench.figures import Figure, Measured
from bench.rounds import Say, Scale


def fine(scale: Scale, folder: Path, say: Say) -> Measured:
    assert list(folder.iterdir()) == []
    say("measuring")
    return [Figure("read", "reads", "/s", float(scale.rounds))]


def broken(scale: Scale, folder: Path, say: Say) -> Measured:
    raise RuntimeError("it fell over")


def run(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str
) -> tuple[int, dict[str, dict[str, object]]]:
    monkeypatch.setattr(bench, "MEASURES", {"broken": broken, "fine": fine})
    path = folder / "found.json"
    code = bench.main([*arguments, "--quick", "--json", str(path)])
    return code, {figure["name"]: figure for figure in json.loads(path.read_text())["figures"]}


def test_a_measure_that_fails_costs_the_others_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, figures = run(tmp_path, monkeypatch)
    assert code == 1
    assert figures["read"]["atoll"] == 3.0
    assert figures["broken"]["not_measured"] == "RuntimeError: it fell over"


def test_only_what_is_asked_for_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, figures = run(tmp_path, monkeypatch, "--only", "fine")
    assert code == 0
    assert figures.keys() == {"read"}


def test_what_was_measured_is_kept_when_the_run_is_ended_early(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(scale: Scale, folder: Path, say: Say) -> Measured:
        raise KeyboardInterrupt

    monkeypatch.setattr(bench, "MEASURES", {"fine": fine, "interrupted": interrupted})
    path = tmp_path / "found.json"
    with pytest.raises(KeyboardInterrupt):
        bench.main(["--quick", "--json", str(path)])
    assert [figure["name"] for figure in json.loads(path.read_text())["figures"]] == ["read"]
