"""How far a run has come, in a file that survives `kill -9` and loss of power.

Lines of JSON are appended and fsynced; the last whole line counts. The file is locked while a run uses it, so
that two runs never share one.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from atoll.bulk.files import STREAM
from atoll.errors import InvalidOperation, StoreUnwritable
from atoll.store.exclusive import sync

S = TypeVar("S")

_VERSION = 1


class Checkpoint:
    """Open one for a run. `state` is what was last saved, None at the very first start."""

    def __init__(self, path: Path) -> None:
        """Raises InvalidOperation when another run uses it, or it cannot be read or created."""
        self.path = path
        self.state: dict[str, Any] | None = None
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise InvalidOperation(
                f"{path}: the checkpoint cannot be opened: {error.strerror}; name another place with --checkpoint"
            ) from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.path.samestat(os.fstat(self._file), path.stat()):
                raise FileNotFoundError  # the run that held it has ended, and removed it
        except OSError:
            os.close(self._file)
            raise InvalidOperation(f"{path}: another run uses this checkpoint; wait for it to end") from None
        for line in path.read_bytes().split(b"\n"):
            try:
                found = msgspec.json.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError):
                continue  # torn by a crash while it was written
            if isinstance(found, dict) and found.get("version") == _VERSION:
                self.state = found

    def saved(self, kind: type[S], what: str) -> S | None:
        """`state` as a struct. Raises InvalidOperation where it is of something else."""
        if self.state is None:
            return None
        try:
            return msgspec.convert(self.state, kind)
        except msgspec.ValidationError as error:
            raise InvalidOperation(f"{self.path}: is not a checkpoint of an {what}: {error}") from None

    def save(self, state: Any) -> None:
        """A struct or a dict, durable on return. Raises StoreUnwritable."""
        state = msgspec.to_builtins(state)
        line = b"\n" + msgspec.json.encode({**state, "version": _VERSION}) + b"\n"
        try:
            written = 0
            while written < len(line):
                written += os.write(self._file, line[written:])
            os.fsync(self._file)
            if self.state is None:
                sync(self.path.parent)
        except OSError as error:
            raise StoreUnwritable(
                f"{self.path}: the checkpoint cannot be written: {error.strerror}"
            ) from None
        self.state = state

    def forget(self) -> None:
        """Begin anew: what was saved is of no further use."""
        os.ftruncate(self._file, 0)
        self.state = None

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Release it for another run; a checkpoint that never held anything leaves no file."""
        if self.state is None:
            self.remove()
        os.close(self._file)


def differing(about: dict[str, Any], before: dict[str, Any]) -> str:
    """The names of what is not as it was."""
    return ", ".join(sorted(name for name in about if about[name] != before.get(name)))


@contextmanager
def checkpoint_of(given: str | None, file: str, suffix: str, *, restart: bool) -> Iterator[Checkpoint | None]:
    """Beside the file, or where it is said; None for a stream without one."""
    if given is None and file == STREAM:
        yield None
        return
    checkpoint = Checkpoint(Path(given) if given is not None else Path(f"{file}.{suffix}"))
    try:
        if restart:
            checkpoint.forget()
        yield checkpoint
    finally:
        checkpoint.close()
