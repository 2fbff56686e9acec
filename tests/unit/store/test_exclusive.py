from __future__ import annotations

import os
from pathlib import Path

import pytest

from atoll.errors import StoreLocked
from atoll.store.exclusive import LOCK_FILE, RegionLock


def test_second_holder_is_told_who_holds_the_folder(tmp_path: Path) -> None:
    held = RegionLock.acquire(tmp_path)
    with pytest.raises(StoreLocked, match=rf"process {os.getpid()} .*{tmp_path}.*stop it") as caught:
        RegionLock.acquire(tmp_path)
    assert caught.value.details == {"pid": os.getpid(), "folder": str(tmp_path)}
    held.release()


def test_released_lock_can_be_taken_again(tmp_path: Path) -> None:
    for _ in range(2):
        lock = RegionLock.acquire(tmp_path)
        lock.release()
        lock.release()


def test_lock_left_by_a_dead_process_does_not_hold(tmp_path: Path) -> None:
    (tmp_path / LOCK_FILE).write_text("99999999\n")
    RegionLock.acquire(tmp_path).release()
    assert (tmp_path / LOCK_FILE).read_text() == f"{os.getpid()}\n"
