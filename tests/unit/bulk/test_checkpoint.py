from __future__ import annotations

from pathlib import Path

import pytest

from atoll.bulk.checkpoint import Checkpoint
from atoll.errors import InvalidOperation


def test_what_was_saved_last_is_found(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    checkpoint = Checkpoint(path)
    assert checkpoint.state is None
    checkpoint.save({"at": 1})
    checkpoint.save({"at": 2})
    checkpoint.close()
    again = Checkpoint(path)
    assert again.state is not None
    assert again.state["at"] == 2


@pytest.mark.parametrize("torn", range(1, 30))
def test_a_torn_line_does_not_count(tmp_path: Path, torn: int) -> None:
    path = tmp_path / "checkpoint"
    checkpoint = Checkpoint(path)
    checkpoint.save({"at": 1})
    whole = path.stat().st_size
    checkpoint.save({"at": 2})
    checkpoint.close()
    line = path.read_bytes()[whole:]
    path.write_bytes(path.read_bytes()[: whole + torn])
    again = Checkpoint(path)
    assert again.state is not None
    assert again.state["at"] == (2 if torn >= len(line) - 1 else 1)
    again.save({"at": 3})
    again.close()
    last = Checkpoint(path)
    assert last.state is not None
    assert last.state["at"] == 3


def test_two_runs_never_share_one(tmp_path: Path) -> None:
    held = Checkpoint(tmp_path / "checkpoint")
    with pytest.raises(InvalidOperation, match="another run"):
        Checkpoint(tmp_path / "checkpoint")
    held.close()


def test_one_that_never_held_anything_leaves_no_file(tmp_path: Path) -> None:
    Checkpoint(tmp_path / "checkpoint").close()
    assert not (tmp_path / "checkpoint").exists()


def test_a_new_start_forgets(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "checkpoint")
    checkpoint.save({"at": 1})
    checkpoint.forget()
    checkpoint.close()
    assert not (tmp_path / "checkpoint").exists()
