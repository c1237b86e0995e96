"""The demonstration's proofs: each system is asked by its own client, none of it through the reconciler.

Called by `demo`, and by its test.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from reconciler.core.errors import StepFailedError
from reconciler.sandbox.practice_engine import Container, answer_of
from reconciler.sandbox.practice_record import VERCEL_PROJECT
from reconciler.sandbox.practice_source import git
from reconciler.sandbox.production import PracticeProduction

OK = 200
_REVISION = "org.opencontainers.image.revision"
#: The pinned Vercel CLI, seen from the project's folder.
_VERCEL = Path("tools", "vercel-cli", "node_modules", "vercel", "dist", "index.js")
_NEWEST = "select max(version) from supabase_migrations.schema_migrations"
_GONE = (
    "select count(*) from information_schema.columns"
    " where table_name = 'coupons' or column_name = 'discount_cents'"
)
_CLI_SECONDS = 60.0
_NONE = Container(service="", id="", image="", state="no container", started="", config="")


@dataclass(frozen=True)
class Proof:
    """One question, asked of a system itself.

    Attributes:
        asked: How it was asked; a reader can ask the same.
        answer: What the system said.
        wanted: What it had to say.
    """

    asked: str
    answer: str
    wanted: str

    @property
    def holds(self) -> bool:
        """Whether the answer is as wanted."""
        return self.answer == self.wanted


def proofs(production: PracticeProduction) -> list[Proof]:
    """Asks everything that makes up the release vector, and the application."""
    good, engine = production.good, production.engine
    images = engine.images()
    containers = {one.service: one for one in engine.containers()}
    app, worker = containers.get("app", _NONE), containers.get("worker", _NONE)
    label = f'{{{{index .Config.Labels "{_REVISION}"}}}}'
    revision = (
        engine.docker("image", "inspect", "--format", label, worker.image) if worker.image else ""
    )
    by, deployment = _vercel(production)
    status, text = answer_of(production.health_url)
    healthy = "running (healthy)"
    return [
        Proof("git rev-parse HEAD", git(production.root, "rev-parse", "HEAD"), good.commit),
        Proof(
            "git status --porcelain",
            git(production.root, "status", "--porcelain") or "clean",
            "clean",
        ),
        Proof("docker inspect app: image", app.image, images[engine.image("app", good.version)]),
        Proof("docker inspect worker: built from", revision, good.commit),
        Proof("docker inspect app: state", app.state, healthy),
        Proof("docker inspect worker: state", worker.state, healthy),
        Proof("psql: newest migration", _psql(production, _NEWEST), good.migration),
        Proof("psql: tables and columns of 1.5.0", _psql(production, _GONE), "0"),
        Proof(by, deployment, good.deployment or ""),
        Proof("GET /api/health", f"{status} {text}", _healthy_answer(good.version)),
    ]


def traces(production: PracticeProduction) -> dict[str, str]:
    """Everything that a command could have changed: by how it was looked up."""
    found = {
        "git reflog: moves of HEAD": str(len(git(production.root, "reflog").splitlines())),
        "Vercel's log of accepted changes": str(_effects(production)),
        "ledger entries": str(_ledger_rows(production)),
        "psql: newest migration": _psql(production, _NEWEST),
        "state file": _stamp(production.root / "states" / "prod.yaml"),
    }
    for one in production.engine.containers():
        found[f"docker inspect {one.service}: started"] = one.started
    return found


def unchanged(before: dict[str, str], after: dict[str, str]) -> list[Proof]:
    """The traces after a command that must have changed nothing, against those before it."""
    return [Proof(key, after.get(key, "gone"), before[key]) for key in before]


def _healthy_answer(version: str) -> str:
    return f"{OK} " + json.dumps({"status": "ok", "release": version}, separators=(",", ":"))


def _psql(production: PracticeProduction, query: str) -> str:
    done = subprocess.run(
        [production.psql, "--no-psqlrc", "--tuples-only", "--no-align", "--command", query],
        env={"PATH": os.defpath, "DATABASE_URL": "", **_connection(production)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() if done.returncode == 0 else "psql failed"


def _connection(production: PracticeProduction) -> dict[str, str]:
    """The address as psql's variables, so that the password stands in no command line."""
    from psycopg.conninfo import conninfo_to_dict

    parts = conninfo_to_dict(production.dsn)
    names = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "password": "PGPASSWORD"}
    names["dbname"] = "PGDATABASE"
    return {names[key]: str(value) for key, value in parts.items() if key in names}


def _vercel(production: PracticeProduction) -> tuple[str, str]:
    """The deployment behind the production host name: how it was asked, and which it is."""
    host, api = f"{VERCEL_PROJECT}.vercel.app", production.vercel
    node = shutil.which("node")
    if node is None or not _VERCEL.exists():
        shown = api.call("GET", f"/v13/deployments/{host}")
        return f"GET /v13/deployments/{host}", str(shown["id"]) if isinstance(shown, dict) else ""
    with tempfile.TemporaryDirectory(prefix="reconciler-vercel-") as home:
        done = subprocess.run(
            [node, str(_VERCEL), "--api", api.url, "inspect", host, "--format", "json"],
            env={
                "PATH": os.environ.get("PATH", os.defpath),
                "HOME": home,
                "XDG_DATA_HOME": f"{home}/data",
                "VERCEL_TOKEN": api.tokens.token,
                "VERCEL_TELEMETRY_DISABLED": "1",
                "NO_UPDATE_NOTIFIER": "1",
                "NO_PROXY": "127.0.0.1,localhost",
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_CLI_SECONDS,
            check=False,
        )
    if done.returncode != 0:
        raise StepFailedError(
            f"The Vercel CLI failed: {(done.stderr.strip() or 'no reason')[-300:]}"
        )
    return f"vercel inspect {host}", str(json.loads(done.stdout)["id"])


def _effects(production: PracticeProduction) -> int:
    answer = production.vercel.call("GET", "/__effects", control=True)
    return len(answer["effects"]) if isinstance(answer, dict) else -1


def _ledger_rows(production: PracticeProduction) -> int:
    path = production.root / "states" / "audit.db"
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        (count,) = connection.execute("SELECT count(*) FROM ledger").fetchone()
        return int(count)
    finally:
        connection.close()


def _stamp(path: Path) -> str:
    status = path.stat()
    return f"{status.st_size} bytes, written at {status.st_mtime_ns}"
